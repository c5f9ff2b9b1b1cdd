//! The users that count: the id of each event, or the user whose alias it is.

use std::sync::Arc;

use polars::prelude::*;
use roaring::RoaringBitmap;

use super::{CodeMap, First, Links, Statement};
use crate::daily::Activity;
use crate::dictionary::{Lookup, UserDictionary};

/// The users of ids: sealed links, and statements that are in memory.
#[derive(Debug, Clone)]
pub struct Canonical {
    sealed: Arc<Links>,
    /// The first statement of the aliases of which it is not a sealed one.
    first: CodeMap<First>,
    /// The ids that unsealed statements alone name as users.
    users: RoaringBitmap,
    /// The ids that are aliases.
    aliases: RoaringBitmap,
    epoch: Epoch,
}

/// While it is the same, aliases keep their users, and only more are added. It does not change when
/// statements are sealed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Times that a link ended or got another user.
    pub undone: u64,
    /// See [`Links::count_import`].
    imports: u64,
}

/// The activity of a day with users in the place of their aliases.
#[derive(Debug, Clone)]
pub struct LinkedActivity {
    epoch: Epoch,
    /// The activity.
    pub activity: Arc<Activity>,
    /// A string that is another one for other links of the users of the day; empty without links.
    pub digest: String,
}

impl Canonical {
    /// The users after some more statements, in the order of the log.
    pub fn new(sealed: &Arc<Links>, unsealed: &[Statement]) -> Self {
        let sealed_only = Self {
            sealed: sealed.clone(),
            first: CodeMap::default(),
            users: RoaringBitmap::new(),
            aliases: sealed.aliases.clone(),
            epoch: Epoch {
                undone: sealed.undone,
                imports: sealed.imports,
            },
        };
        sealed_only.with(unsealed)
    }

    /// The same after some more statements, which follow all others in the log.
    #[must_use]
    pub fn with(mut self, statements: &[Statement]) -> Self {
        for &statement in statements {
            self.add(statement);
        }
        self
    }

    /// Does the same as [`Links::add`].
    fn add(&mut self, Statement { ts_us, user, alias }: Statement) {
        let is_new = !self.sealed.users.contains(user) && self.users.insert(user);
        if is_new && self.aliases.remove(user) {
            self.epoch.undone += 1;
        }
        let counts = |alias: &u32| self.sealed.counts(*alias, user, ts_us);
        let Some(alias) = alias.filter(counts) else {
            return;
        };
        match self.first_of(alias) {
            Some(first) if ts_us >= first.ts_us => return,
            Some(first) if first.user != user && self.aliases.contains(alias) => {
                self.epoch.undone += 1;
            }
            Some(_) => {}
            None => {
                if !self.sealed.users.contains(alias) && !self.users.contains(alias) {
                    self.aliases.insert(alias);
                }
            }
        }
        self.first.insert(alias, First { user, ts_us });
    }

    fn first_of(&self, alias: u32) -> Option<First> {
        let unsealed = self.first.get(&alias);
        unsealed.or_else(|| self.sealed.first.get(&alias)).copied()
    }

    /// The user of an id: its own code if it is not an alias.
    pub fn of(&self, code: u32) -> u32 {
        if !self.aliases.contains(code) {
            return code;
        }
        self.first_of(code).map_or(code, |first| first.user)
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

    /// The epoch. The result of an equal one is right now if none of its users is an alias now; if
    /// some are, their users belong in their place.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// True if some of these ids are aliases.
    pub fn has_aliases_among(&self, ids: &RoaringBitmap) -> bool {
        !self.aliases.is_disjoint(ids)
    }

    /// The aliases among some ids.
    pub fn aliases_among(&self, ids: &RoaringBitmap) -> RoaringBitmap {
        ids & &self.aliases
    }

    /// Puts users in the place of their aliases.
    pub fn apply(&self, ids: &mut RoaringBitmap) {
        let moved = self.aliases_among(ids);
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
    pub fn users_of(&self, aliases: &RoaringBitmap) -> RoaringBitmap {
        crate::daily::set(aliases.iter().map(|alias| self.of(alias)).collect())
    }

    /// True if what was computed before is what would be computed now.
    pub fn is_current(&self, linked: &LinkedActivity) -> bool {
        self.epoch == linked.epoch && !self.has_aliases_among(&linked.activity.users)
    }

    /// The activity with users in the place of their aliases.
    pub fn activity(&self, activity: &Arc<Activity>) -> LinkedActivity {
        let moved = self.aliases_among(&activity.users);
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
