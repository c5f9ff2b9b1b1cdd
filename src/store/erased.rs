//! Who is erased: asked for every event that comes in, and for every query while an erasure has not ended.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use polars::prelude::*;
use ring::hmac;
use roaring::RoaringBitmap;

use crate::error::Result;
use crate::names::Numbering;
use crate::schema;

/// Who is erased: asked for every event that comes in.
#[derive(Clone, Default)]
pub(super) struct Gate {
    /// Whether anybody ever was: without a lock, for the many stores where nobody was.
    is_used: Arc<AtomicBool>,
    closed: Arc<RwLock<Closed>>,
}

#[derive(Default)]
struct Closed {
    key: Option<hmac::Key>,
    hashes: HashSet<String>,
    /// Numbers that erased users have in this process.
    numbers: RoaringBitmap,
    /// Those of them whose erasure has not ended.
    pending: RoaringBitmap,
    /// Users whom the states have forgotten and whose events may still be there.
    hidden: Vec<String>,
}

impl Gate {
    /// Whether a user is erased.
    pub fn is_erased(&self, user: &str, users: &Numbering) -> bool {
        if !self.is_used.load(Ordering::Acquire) {
            return false;
        }
        let closed = self.read();
        match closed.key {
            None => false,
            // One who has a number is known; a hash takes longer.
            Some(ref key) => match users.find(user) {
                Some(number) => closed.numbers.contains(number),
                None => closed.hashes.contains(&hash(key, user)),
            },
        }
    }

    /// The numbers that erased users have in this process.
    pub fn numbers(&self) -> RoaringBitmap {
        self.read().numbers.clone()
    }

    /// The numbers of users whose erasure has ended: nothing has them any more.
    pub fn ended(&self) -> RoaringBitmap {
        let closed = self.read();
        &closed.numbers - &closed.pending
    }

    /// Says that all erasures have ended.
    pub fn end(&self) {
        let mut closed = self.write();
        closed.pending.clear();
        closed.hidden.clear();
    }

    /// Events that are not those of users whom the states have forgotten, where there are such: an expression on the
    /// users' ids.
    pub fn visible(&self) -> Option<Expr> {
        let closed = self.read();
        let hidden: Vec<&str> = closed.hidden.iter().map(String::as_str).collect();
        (!hidden.is_empty()).then(|| is_any(&hidden).not())
    }

    /// The same on the users' numbers.
    pub fn visible_numbers(&self) -> Option<Expr> {
        let closed = self.read();
        let pending: Vec<u32> = closed.pending.iter().collect();
        let pending = Series::new(PlSmallStr::EMPTY, pending);
        (!closed.hidden.is_empty()).then(|| {
            let is_hidden = col(schema::USER_ID).is_in(lit(pending).implode(false), false);
            is_hidden.fill_null(lit(false)).not()
        })
    }

    /// Says that states have forgotten these users, and no others.
    pub fn hide(&self, users: &[&str]) {
        self.write().hidden = users.iter().map(|&user| user.to_owned()).collect();
    }

    fn read(&self) -> RwLockReadGuard<'_, Closed> {
        // It is only ever changed in one step.
        self.closed.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Closed> {
        self.closed.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names who is erased: by the key and the hashes of their ids, and those whose erasure has not ended by their ids.
    ///
    /// # Errors
    /// If there is no number left for one of them.
    pub fn set(
        &self,
        key: Option<hmac::Key>,
        hashes: &BTreeSet<String>,
        pending: &BTreeSet<String>,
        users: &Numbering,
    ) -> Result<()> {
        let mut numbers = RoaringBitmap::new();
        for user in pending {
            // One without a number gets one, so that no event that is on its way brings another.
            numbers.insert(users.number(user)?);
        }
        let mut closed = self.write();
        closed.key = key;
        closed.hashes = hashes.iter().cloned().collect();
        closed.numbers |= &numbers;
        closed.pending = numbers;
        self.is_used.store(closed.key.is_some(), Ordering::Release);
        Ok(())
    }
}

/// The events of some users.
pub(super) fn is_any(users: &[&str]) -> Expr {
    let users = Series::new(PlSmallStr::EMPTY, users);
    col(schema::USER_ID)
        .cast(DataType::String)
        .is_in(lit(users).implode(false), false)
        .fill_null(lit(false))
}

/// What stays of an erased id.
pub(super) fn hash(key: &hmac::Key, user: &str) -> String {
    hex::encode(hmac::sign(key, user.as_bytes()).as_ref())
}
