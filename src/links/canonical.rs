//! The users that count: the id of each event, or the user whose alias it is.

use std::sync::Arc;

use polars::prelude::*;
use roaring::RoaringBitmap;

use super::{CodeMap, First, Links, Statement};
use crate::daily::{Activity, DailyState};
use crate::dictionary::{Lookup, UserDictionary};

/// The users of ids: sealed links, and statements that are in memory.
#[derive(Debug)]
pub struct Canonical {
    sealed: Arc<Links>,
    /// The users of the ids that unsealed statements give another one than the sealed links.
    changed: CodeMap<Option<u32>>,
    /// The ids that are aliases.
    aliases: RoaringBitmap,
    /// While it is the same, aliases keep their users, and only more are added. None if unsealed
    /// statements end a link: what is computed then is not kept.
    epoch: Option<u64>,
}

/// The activity of a day with users in the place of their aliases.
#[derive(Debug, Clone)]
pub struct LinkedActivity {
    epoch: Option<u64>,
    /// The activity.
    pub activity: Arc<Activity>,
    /// A string that is another one for other links of the users of the day; empty without links.
    pub digest: String,
}

impl Canonical {
    /// The users after some more statements, in the order of the log.
    pub fn new(sealed: &Arc<Links>, unsealed: &[Statement]) -> Self {
        let mut users = RoaringBitmap::new();
        let mut first: CodeMap<First> = CodeMap::default();
        for &Statement { ts_us, user, alias } in unsealed {
            if !sealed.users.contains(user) {
                users.insert(user);
            }
            if let Some(alias) = alias.filter(|&alias| sealed.counts(alias, user, ts_us)) {
                let known = first.get(&alias).or_else(|| sealed.first.get(&alias));
                if known.is_none_or(|known| ts_us < known.ts_us) {
                    first.insert(alias, First { user, ts_us });
                }
            }
        }
        let mut changed: CodeMap<Option<u32>> = CodeMap::default();
        for (alias, First { user, .. }) in first {
            let is_user = sealed.users.contains(alias) || users.contains(alias);
            changed.insert(alias, (!is_user).then_some(user));
        }
        for user in &users & &sealed.aliases {
            changed.insert(user, None);
        }
        changed.retain(|&alias, user| sealed.user_of(alias) != *user);
        let mut aliases = sealed.aliases.clone();
        let mut is_undone = false;
        for (&alias, user) in &changed {
            is_undone |= sealed.aliases.contains(alias);
            match user {
                Some(_) => aliases.insert(alias),
                None => aliases.remove(alias),
            };
        }
        Self {
            epoch: (!is_undone).then_some(sealed.undone),
            sealed: sealed.clone(),
            changed,
            aliases,
        }
    }

    /// The user of an id: its own code if it is not an alias.
    pub fn of(&self, code: u32) -> u32 {
        if !self.aliases.contains(code) {
            return code;
        }
        match self.changed.get(&code) {
            Some(changed) => changed.unwrap_or(code),
            None => self.sealed.user_of(code).unwrap_or(code),
        }
    }

    /// All ids of the user of an id, its own included.
    pub fn ids_of(&self, code: u32) -> RoaringBitmap {
        let user = self.of(code);
        let mut ids: RoaringBitmap = self
            .aliases
            .iter()
            .filter(|&alias| self.of(alias) == user)
            .collect();
        ids.insert(user);
        ids
    }

    /// See [`LinkedActivity`]: what was computed at an epoch from users of whom none is an alias
    /// now is what would be computed now.
    pub fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// True if some of these ids are aliases.
    pub fn has_aliases_among(&self, ids: &RoaringBitmap) -> bool {
        !self.aliases.is_disjoint(ids)
    }

    /// Puts users in the place of their aliases.
    pub fn apply(&self, ids: &mut RoaringBitmap) {
        let moved = &*ids & &self.aliases;
        if moved.is_empty() {
            return;
        }
        *ids -= &moved;
        *ids |= self.users_of(&moved);
    }

    /// The same for a list in ascending order, which stays one.
    pub fn apply_sorted(&self, ids: &mut Vec<u32>) {
        let mut is_moved = false;
        for id in ids.iter_mut() {
            let user = self.of(*id);
            is_moved |= user != *id;
            *id = user;
        }
        if is_moved {
            ids.sort_unstable();
            ids.dedup();
        }
    }

    /// The users of some aliases.
    fn users_of(&self, aliases: &RoaringBitmap) -> RoaringBitmap {
        crate::daily::set(aliases.iter().map(|alias| self.of(alias)).collect())
    }

    /// True if what was computed before is what would be computed now.
    pub fn is_current(&self, linked: &LinkedActivity) -> bool {
        self.epoch.is_some()
            && self.epoch == linked.epoch
            && !self.has_aliases_among(&linked.activity.users)
    }

    /// The activity with users in the place of their aliases.
    pub fn activity(&self, activity: &Arc<Activity>) -> LinkedActivity {
        let moved = &activity.users & &self.aliases;
        if moved.is_empty() {
            return LinkedActivity {
                epoch: self.epoch,
                activity: activity.clone(),
                digest: String::new(),
            };
        }
        let mut crc32c = 0;
        for alias in &moved {
            for code in [alias, self.of(alias)] {
                crc32c = crc32c::crc32c_append(crc32c, &code.to_le_bytes());
            }
        }
        let mut linked = Activity::clone(activity);
        linked.users -= &moved;
        linked.users |= self.users_of(&moved);
        LinkedActivity {
            epoch: self.epoch,
            activity: Arc::new(linked),
            digest: format!("-{}-{crc32c:08x}", moved.len()),
        }
    }

    /// The state of a day with users in the place of their aliases.
    pub fn state(&self, state: &Arc<DailyState>) -> Arc<DailyState> {
        if !self.has_aliases_among(&state.activity.users) {
            return state.clone();
        }
        let mut linked = DailyState::clone(state);
        self.apply(&mut Arc::make_mut(&mut linked.activity).users);
        let of_types = linked.event_type_users.values_mut();
        let sets = of_types.chain(linked.feature_users.values_mut());
        sets.for_each(|users| self.apply(users));
        Arc::new(linked)
    }

    /// A column of codes with those of users in the place of those of their aliases.
    pub fn codes(self: &Arc<Self>, codes: Expr) -> Expr {
        let this = self.clone();
        codes.map(
            move |column| {
                let mut last = (None, None);
                let users = column.u32()?.iter().map(|code| {
                    // The events of an id are neighbours.
                    if last.0 != code {
                        last = (code, code.map(|code| this.of(code)));
                    }
                    last.1
                });
                let users: UInt32Chunked = users.collect();
                Ok(users.with_name(column.name().clone()).into_column())
            },
            |_, field| Ok(field.clone()),
        )
    }

    /// A column of ids with those of users in the place of their aliases.
    pub fn ids(self: &Arc<Self>, users: &UserDictionary, ids: Expr) -> Expr {
        let (this, users) = (self.clone(), users.clone());
        ids.map(
            move |column| {
                let ids = column.str()?;
                let mut last: (Option<u32>, Option<String>) = (None, None);
                let found = users.lookup(ids).zip(ids.iter()).map(|(found, id)| {
                    let Lookup::Known(code) = found else {
                        return id.map(str::to_owned);
                    };
                    if last.0 != Some(code) {
                        let user = Some(this.of(code)).filter(|&user| user != code);
                        last = (Some(code), user.and_then(|user| users.text(user)));
                    }
                    last.1.clone().or_else(|| id.map(str::to_owned))
                });
                let found: StringChunked = found.collect();
                Ok(found.with_name(column.name().clone()).into_column())
            },
            |_, field| Ok(field.clone()),
        )
    }
}
