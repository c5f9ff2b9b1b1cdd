//! Links between the ids of users: an id is an alias of another one, so that both count as one
//! user.
//!
//! An identity call says it ([`crate::event::identity`]): *statements* of an alias, its user and a
//! time. Of an alias the first statement by time, and then by position in the log, holds for ever.
//! An id that a statement names as a user never is an alias, whenever that statement comes. So
//! there are no chains, and the order of arrival does not matter.
//!
//! Ids are codes of the dictionary of users. Everything here is pure.

pub mod canonical;
mod codec;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use roaring::RoaringBitmap;

/// Most statements that lost against an earlier one and are listed; clients can send any number of
/// them.
const MAX_LATER: usize = 100_000;

/// A statement of an identity call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// When, in µs.
    pub ts_us: i64,
    /// A known user.
    pub user: u32,
    /// Another id of this user.
    pub alias: Option<u32>,
}

/// The user of an alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct First {
    user: u32,
    ts_us: i64,
}

/// Maps from codes, which no client chooses.
type CodeMap<T> = HashMap<u32, T, BuildHasherDefault<CodeHasher>>;

/// Hashes codes of users.
#[derive(Default)]
struct CodeHasher(u64);

impl Hasher for CodeHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, code: u32) {
        // Fibonacci hashing: 2^64 divided by the golden ratio.
        self.0 = (self.0 ^ u64::from(code)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 ^= self.0 >> u32::BITS;
    }
}

/// All links, with the statements that were rejected.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Links {
    /// The first statement of each alias, also of one that is a user.
    first: CodeMap<First>,
    /// The ids that statements name as users.
    users: RoaringBitmap,
    /// The other users of an alias, with the time of the first statement of each.
    later: BTreeMap<(u32, u32), i64>,
    /// Statements that are not listed in `later`, because there are too many.
    unlisted: u64,
    /// Aliases whose link was removed: statements up to this time do not count.
    removed: BTreeMap<u32, i64>,
    /// The aliases whose link holds.
    aliases: RoaringBitmap,
    /// Times that a link ended or got another user. What was computed with links before such a
    /// change is wrong, and after any other one incomplete.
    undone: u64,
    /// Times that links went with the data of their ids.
    expired: u64,
    /// See [`Links::count_import`]; not stored.
    imports: u64,
}

/// The reason why a statement is not a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// The alias is a known user.
    KnownUser,
    /// The alias is an alias of another user since before.
    OtherUser,
}

/// A statement about an alias, and whether it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The other id.
    pub alias: u32,
    /// The user.
    pub user: u32,
    /// Time of the statement, in µs.
    pub since_us: i64,
    /// The reason why it does not hold; none if it does.
    pub rejected: Option<Rejected>,
}

impl Links {
    /// True if there never was a link.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.undone == 0
    }

    /// Number of links that hold.
    pub fn len(&self) -> u64 {
        self.aliases.len()
    }

    /// Number of times that links ended, were removed, or got another user.
    pub fn removals(&self) -> u64 {
        self.undone + self.expired
    }

    /// Number of statements that do not hold. Those that repeat one count once.
    pub fn rejected(&self) -> u64 {
        let users = self.first.len() as u64 - self.aliases.len();
        users + self.later.len() as u64 + self.unlisted
    }

    /// All codes, in ascending order.
    pub fn codes(&self) -> RoaringBitmap {
        let mut codes = self.users.clone();
        for (&alias, first) in &self.first {
            codes.insert(alias);
            codes.insert(first.user);
        }
        codes.extend(self.later.keys().flat_map(|&(alias, user)| [alias, user]));
        codes.extend(self.removed.keys().copied());
        codes
    }

    /// Adds a statement that follows all others in the log. Returns whether anything changed.
    pub fn add(&mut self, statement: Statement) -> bool {
        let Statement { ts_us, user, alias } = statement;
        let mut changed = self.users.insert(user);
        if changed && self.aliases.remove(user) {
            self.undone += 1;
        }
        let Some(alias) = alias.filter(|&alias| self.counts(alias, user, ts_us)) else {
            return changed;
        };
        let new = First { user, ts_us };
        match self.first.get_mut(&alias) {
            None => {
                self.first.insert(alias, new);
                if !self.users.contains(alias) {
                    self.aliases.insert(alias);
                }
                changed = true;
            }
            Some(first) if first.user == user => {
                changed |= ts_us < first.ts_us;
                first.ts_us = first.ts_us.min(ts_us);
            }
            Some(first) if ts_us < first.ts_us => {
                let before = std::mem::replace(first, new);
                self.later.remove(&(alias, user));
                self.add_later(alias, before);
                if self.aliases.contains(alias) {
                    self.undone += 1;
                }
                changed = true;
            }
            Some(_) => changed |= self.add_later(alias, new),
        }
        changed
    }

    /// True if a statement that follows all others in the log says nothing new: [`Links::add`]
    /// would change nothing, but for the number of those that are not listed.
    pub fn has(&self, statement: Statement) -> bool {
        let Statement { ts_us, user, alias } = statement;
        if !self.users.contains(user) {
            return false;
        }
        let Some(alias) = alias.filter(|&alias| self.counts(alias, user, ts_us)) else {
            return true;
        };
        match self.first.get(&alias) {
            None => false,
            Some(first) if first.user == user => first.ts_us <= ts_us,
            Some(first) if ts_us < first.ts_us => false,
            Some(_) => match self.later.get(&(alias, user)) {
                Some(&known_us) => known_us <= ts_us,
                None => self.later.len() >= MAX_LATER,
            },
        }
    }

    /// True if a statement may be a link.
    fn counts(&self, alias: u32, user: u32, ts_us: i64) -> bool {
        let removed = self.removed.get(&alias);
        alias != user && removed.is_none_or(|&until_us| until_us < ts_us)
    }

    fn add_later(&mut self, alias: u32, statement: First) -> bool {
        let key = (alias, statement.user);
        let is_full = self.later.len() >= MAX_LATER;
        match self.later.entry(key) {
            Entry::Occupied(mut known) => {
                let ts_us = known.get_mut();
                let changed = statement.ts_us < *ts_us;
                *ts_us = statement.ts_us.min(*ts_us);
                changed
            }
            Entry::Vacant(_) if is_full => {
                self.unlisted += 1;
                true
            }
            Entry::Vacant(new) => {
                new.insert(statement.ts_us);
                true
            }
        }
    }

    /// Counts statements that were not in the log: those in memory follow them now, although they
    /// were there before, so that a link that one of them was may hold no more.
    pub fn count_import(&mut self) {
        self.imports += 1;
    }

    /// The user of an id, if the id is an alias.
    pub fn user_of(&self, code: u32) -> Option<u32> {
        let is_alias = self.aliases.contains(code);
        let first = self.first.get(&code).filter(|_| is_alias);
        first.map(|first| first.user)
    }

    /// Removes the link of an alias: statements up to a time, in µs, do not count any more. Returns
    /// whether there was a statement about it.
    pub fn remove(&mut self, alias: u32, until_us: i64) -> bool {
        let was_later = self.later.len();
        self.later.retain(|&(other, _), _| other != alias);
        let was_first = self.first.remove(&alias).is_some();
        if self.aliases.remove(alias) {
            self.undone += 1;
        }
        let is_known = was_first || self.later.len() < was_later;
        if is_known {
            self.removed.insert(alias, until_us);
        }
        is_known
    }

    /// Keeps what is about some ids. The others have no data any more.
    fn retain(&mut self, codes: &RoaringBitmap) {
        let before = self.aliases.len();
        let both = |alias: u32, user: u32| codes.contains(alias) && codes.contains(user);
        self.first.retain(|&alias, first| both(alias, first.user));
        self.later.retain(|&(alias, user), _| both(alias, user));
        self.removed.retain(|&alias, _| codes.contains(alias));
        self.users &= codes;
        let first = &self.first;
        self.aliases = self
            .aliases
            .iter()
            .filter(|alias| first.contains_key(alias))
            .collect();
        self.expired += u64::from(self.aliases.len() < before);
    }

    /// Removes everything about some ids, all of whose data is removed.
    pub fn erase(&mut self, codes: &RoaringBitmap) {
        let left = &self.aliases - codes;
        self.retain(&(self.codes() - codes));
        // The others are erased with all that was computed of them.
        self.undone += u64::from(!left.is_subset(&self.aliases));
    }

    /// Removes everything about persons of whose ids none is `live`, and adds all ids of the others
    /// to `live`: an alias stays while its user has data, and a user while an alias has.
    pub fn expire(&mut self, live: &mut RoaringBitmap) {
        let mut users = RoaringBitmap::new();
        for (&alias, first) in &self.first {
            if live.contains(alias) || live.contains(first.user) {
                users.insert(first.user);
            }
        }
        for (&alias, first) in &self.first {
            if users.contains(first.user) {
                live.insert(alias);
            }
        }
        *live |= users;
        self.retain(live);
    }

    /// Gives the ids other codes: `new_codes` has that of each code, in the same order.
    pub fn renumber(&mut self, new_codes: &[Option<u32>]) {
        let new = |code: u32| new_codes.get(code as usize).copied().flatten();
        let set = |codes: &RoaringBitmap| codes.iter().filter_map(new).collect();
        let first = self.first.iter().filter_map(|(&alias, first)| {
            let user = new(first.user)?;
            Some((new(alias)?, First { user, ..*first }))
        });
        self.first = first.collect();
        let later = self.later.iter();
        let later =
            later.filter_map(|(&(alias, user), &ts_us)| Some(((new(alias)?, new(user)?), ts_us)));
        self.later = later.collect();
        let removed = self.removed.iter();
        let removed = removed.filter_map(|(&alias, &until_us)| Some((new(alias)?, until_us)));
        self.removed = removed.collect();
        self.users = set(&self.users);
        self.aliases = set(&self.aliases);
    }

    /// The statements about aliases, by the code of the alias; those of one alias by time. `from`
    /// is the first code.
    pub fn list(&self, from: u32) -> Vec<Link> {
        let mut aliases: Vec<u32> = self.first.keys().copied().collect();
        aliases.retain(|&alias| alias >= from);
        aliases.sort_unstable();
        let mut links = Vec::with_capacity(aliases.len());
        for alias in aliases {
            let is_user = self.users.contains(alias);
            let of = |user, since_us, is_first| Link {
                alias,
                user,
                since_us,
                rejected: match (is_user, is_first) {
                    (true, _) => Some(Rejected::KnownUser),
                    (false, true) => None,
                    (false, false) => Some(Rejected::OtherUser),
                },
            };
            let first = self.first.get(&alias);
            links.extend(first.map(|first| of(first.user, first.ts_us, true)));
            let later = self.later.range((alias, 0)..=(alias, u32::MAX));
            links.extend(later.map(|(&(_, user), &ts_us)| of(user, ts_us, false)));
        }
        links
    }

    /// Estimate of its bytes in memory.
    pub fn memory_bytes(&self) -> u64 {
        // A slot of the table has a byte of control.
        let first = self.first.capacity() * (size_of::<(u32, First)>() + 1);
        let sets = self.users.serialized_size() + self.aliases.serialized_size();
        (first + sets) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::canonical::{Canonical, Epoch};
    use super::*;

    /// A change of the statements that are known.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// It is added to those in memory.
        Add(Statement),
        /// The first ones in memory are sealed.
        Seal(usize),
        /// It is sealed before those in memory.
        Import(Statement),
    }

    fn statement(ts_us: i64, user: u32, alias: u32) -> Statement {
        Statement {
            ts_us,
            user,
            alias: Some(alias),
        }
    }

    fn links(statements: &[Statement]) -> Links {
        let mut links = Links::default();
        for &statement in statements {
            links.add(statement);
        }
        links
    }

    /// The links by their definition: of all statements, in the order of time.
    fn model(statements: &[Statement]) -> BTreeMap<u32, u32> {
        let users: BTreeSet<u32> = statements.iter().map(|one| one.user).collect();
        let mut sorted = statements.to_vec();
        sorted.sort_by_key(|one| one.ts_us);
        let mut found = BTreeMap::new();
        for Statement { user, alias, .. } in sorted {
            if let Some(alias) = alias.filter(|alias| !users.contains(alias)) {
                found.entry(alias).or_insert(user);
            }
        }
        found
    }

    fn applied(links: &Links) -> BTreeMap<u32, u32> {
        let links = links.list(0).into_iter();
        let links = links.filter(|link| link.rejected.is_none());
        links.map(|link| (link.alias, link.user)).collect()
    }

    fn any_statement() -> impl Strategy<Value = Statement> {
        (0..8_i64, 0..12_u32, proptest::option::of(0..12_u32))
            .prop_map(|(ts_us, user, alias)| Statement { ts_us, user, alias })
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => any_statement().prop_map(Step::Add),
            1 => (1..8_usize).prop_map(Step::Seal),
            1 => any_statement().prop_map(Step::Import),
        ]
    }

    #[test]
    fn the_first_statement_of_an_alias_holds_and_a_user_is_not_an_alias() {
        let all = [statement(5, 1, 10), statement(4, 2, 10), statement(6, 3, 1)];
        let links = links(&all);
        assert_eq!(applied(&links), BTreeMap::from([(10, 2)]));
        let rejected = links.list(0).into_iter();
        let rejected = rejected.filter_map(|link| Some((link.alias, link.user, link.rejected?)));
        assert_eq!(
            rejected.collect::<Vec<_>>(),
            [(1, 3, Rejected::KnownUser), (10, 1, Rejected::OtherUser)]
        );
        assert_eq!((links.len(), links.rejected()), (1, 2));
    }

    #[test]
    fn an_alias_that_is_named_as_a_user_later_is_not_an_alias_any_more() {
        let mut links = links(&[statement(1, 1, 10)]);
        assert_eq!((links.user_of(10), links.undone), (Some(1), 0));
        assert!(links.add(statement(2, 10, 20)));
        assert_eq!((links.user_of(10), links.undone), (None, 1));
        assert_eq!(links.user_of(20), Some(10));
    }

    #[test]
    fn a_removed_link_stays_away_until_a_later_statement() {
        let mut links = links(&[statement(1, 1, 10), statement(2, 2, 10)]);
        assert!(links.remove(10, 5));
        assert!(!links.remove(11, 5));
        assert!(!links.add(statement(3, 1, 10)));
        assert_eq!((applied(&links), links.rejected()), (BTreeMap::new(), 0));
        assert!(links.add(statement(6, 2, 10)));
        assert_eq!(links.user_of(10), Some(2));
    }

    #[test]
    fn a_person_with_data_keeps_all_ids_and_the_others_expire() {
        let mut links = links(&[
            statement(1, 1, 10),
            statement(1, 1, 11),
            statement(1, 2, 12),
        ]);
        let mut live = RoaringBitmap::from([11, 99]);
        let before = (links.undone, links.removals());
        links.expire(&mut live);
        // What was computed with the other links is right.
        assert_eq!((links.undone, links.removals()), (before.0, before.1 + 1));
        assert_eq!(live, RoaringBitmap::from([1, 10, 11, 99]));
        assert_eq!(applied(&links), BTreeMap::from([(10, 1), (11, 1)]));
        links.erase(&RoaringBitmap::from([10]));
        assert_eq!(applied(&links), BTreeMap::from([(11, 1)]));
        assert_eq!((links.undone, links.removals()), (before.0, before.1 + 2));
        assert_eq!(Links::decode(&links.encode()), Ok(links));
    }

    #[test]
    fn of_an_alias_with_too_many_users_a_further_one_is_not_new() {
        let users = u32::try_from(MAX_LATER).expect("a code") + 2;
        let mut links = Links::default();
        for user in 1..=users {
            links.add(statement(i64::from(user), user, 0));
        }
        assert_eq!((links.later.len(), links.unlisted), (MAX_LATER, 1));
        let further = statement(i64::from(users), users, 0);
        assert!(links.has(further) && links.add(further));
        assert!(!links.has(statement(0, users, 0)), "it is the first one");
        assert!(!links.has(statement(9, users + 1, 0)), "a new user");
    }

    proptest! {
        #[test]
        fn a_statement_is_new_exactly_if_it_changes_something(
            statements in proptest::collection::vec(any_statement(), 0..40),
            removed in (0..40_usize, 0..12_u32, 0..8_i64),
        ) {
            let mut links = Links::default();
            for (place, &statement) in statements.iter().enumerate() {
                if place == removed.0 {
                    links.remove(removed.1, removed.2);
                }
                let is_known = links.has(statement);
                prop_assert_eq!(links.add(statement), !is_known, "{:?}", statement);
                prop_assert!(links.has(statement));
            }
        }

        #[test]
        fn links_are_those_of_their_definition_in_any_order_of_arrival(
            statements in proptest::collection::vec(any_statement(), 0..24),
            sealed in 0..24_usize,
        ) {
            let expected = model(&statements);
            let whole = links(&statements);
            prop_assert_eq!(&applied(&whole), &expected);
            // A part is sealed, and the others are in memory.
            let (sealed, unsealed) = statements.split_at(sealed.min(statements.len()));
            let canonical = Canonical::new(&Arc::new(links(sealed)), unsealed);
            for code in 0..12 {
                let user = expected.get(&code).copied().unwrap_or(code);
                prop_assert_eq!(canonical.of(code), user, "{}", code);
            }
            let bytes = whole.encode();
            prop_assert_eq!(Links::decode(&bytes), Ok(whole.clone()));
            // Without ties the order of arrival does not matter.
            let mut distinct: Vec<Statement> = (0..).zip(&statements).map(|(place, one)| {
                Statement { ts_us: one.ts_us * 100 + place, ..*one }
            }).collect();
            let expected = model(&distinct);
            distinct.reverse();
            prop_assert_eq!(applied(&links(&distinct)), expected);
        }

        #[test]
        fn users_of_the_same_epoch_with_users_in_the_place_of_new_aliases_are_those_of_now(
            steps in proptest::collection::vec(any_step(), 1..32),
        ) {
            let (mut sealed, mut unsealed) = (Links::default(), Vec::new());
            let mut last = Canonical::new(&Arc::default(), &[]);
            let mut before: Vec<(Epoch, Vec<u32>)> = Vec::new();
            for step in steps {
                let mut followed = None;
                match step {
                    Step::Add(statement) => {
                        unsealed.push(statement);
                        followed = Some(last.with(&[statement]));
                    }
                    Step::Seal(count) => {
                        for statement in unsealed.drain(..count.min(unsealed.len())) {
                            sealed.add(statement);
                        }
                    }
                    Step::Import(statement) => {
                        sealed.add(statement);
                        sealed.count_import();
                    }
                }
                let now = Canonical::new(&Arc::new(sealed.clone()), &unsealed);
                let users: Vec<u32> = (0..12).map(|code| now.of(code)).collect();
                for (_, then) in before.iter().filter(|(epoch, _)| *epoch == now.epoch()) {
                    let then: Vec<u32> = then.iter().map(|&user| now.of(user)).collect();
                    prop_assert_eq!(&then, &users);
                }
                if let Some(followed) = followed {
                    prop_assert_eq!(followed.epoch(), now.epoch());
                    let followed: Vec<u32> = (0..12).map(|code| followed.of(code)).collect();
                    prop_assert_eq!(&followed, &users);
                }
                before.push((now.epoch(), users));
                last = now;
            }
        }
    }
}
