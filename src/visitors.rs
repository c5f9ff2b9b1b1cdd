//! Daily visitors: with `--visitors daily`, an event without a user gets an id that is the same for
//! all events of one client address and User-Agent on one day of UTC.
//!
//! The id is a keyed hash of both, and its key is random and new each day. Address, User-Agent and
//! key are in memory alone, and never stored or traced. A key is kept until the end of the next
//! day, for events that arrive late; with it goes the only way from an address to its ids. After a
//! restart the day has a new key: a client that is seen before and after it counts twice that day.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use ring::hmac;
use tracing::error;

use crate::daily::Day;
use crate::event::visitor::{VISITOR_CHARS, VISITOR_PREFIX};

/// Length of a key, in bytes: that of its hash.
const KEY_BYTES: usize = 32;

/// The keys of the last days.
#[derive(Default)]
pub struct Visitors {
    keys: Mutex<BTreeMap<Day, hmac::Key>>,
}

/// A client whose events may have no user.
pub struct Visitor {
    visitors: Arc<Visitors>,
    /// Address and User-Agent.
    client: Vec<u8>,
    /// Its id on the day that was asked for last.
    last: Option<(Day, Option<String>)>,
}

impl Visitors {
    /// A client with this address and User-Agent.
    pub fn visitor(self: &Arc<Self>, address: IpAddr, agent: &[u8]) -> Visitor {
        // An IPv4 address is one value, however the socket reports it.
        let address = match address.to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let client = [address.octets().as_slice(), agent].concat();
        Visitor {
            visitors: self.clone(),
            client,
            last: None,
        }
    }

    /// Removes the keys of the days before yesterday.
    pub fn forget_before(&self, today: Day) {
        self.keys.lock().retain(|&day, _| day >= today - 1);
    }

    /// The keyed hash of a client on a day.
    fn hash(&self, client: &[u8], day: Day, today: Day) -> Option<hmac::Tag> {
        self.forget_before(today);
        // A day ahead is that of a client whose clock or time zone is.
        if !(today - 1..=today + 1).contains(&day) {
            return None;
        }
        let mut keys = self.keys.lock();
        let key = match keys.entry(day) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let mut key = [0; KEY_BYTES];
                if let Err(error) = getrandom::fill(&mut key) {
                    error!(%error, "The system has no random bytes; visitors stay anonymous: {error}");
                    return None;
                }
                free.insert(hmac::Key::new(hmac::HMAC_SHA256, &key))
            }
        };
        Some(hmac::sign(key, client))
    }
}

impl Visitor {
    /// Its id on a day of UTC, while that of the server is `today`; none if the key is gone.
    pub fn id_on(&mut self, day: Day, today: Day) -> Option<String> {
        if let Some((last_day, id)) = &self.last
            && *last_day == day
        {
            return id.clone();
        }
        let hash = self.visitors.hash(&self.client, day, today);
        let id = hash.map(|hash| {
            let mut id = VISITOR_PREFIX.to_string();
            URL_SAFE_NO_PAD.encode_string(hash, &mut id);
            id.truncate(VISITOR_PREFIX.len_utf8() + VISITOR_CHARS);
            id
        });
        self.last = Some((day, id.clone()));
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::visitor::is_visitor_id;

    const TODAY: Day = 20_000;

    fn id(visitors: &Arc<Visitors>, address: &str, agent: &str, day: Day) -> Option<String> {
        let address = address.parse().expect("an address");
        visitors
            .visitor(address, agent.as_bytes())
            .id_on(day, TODAY)
    }

    #[test]
    fn a_visitor_has_one_id_a_day_and_no_two_share_one() {
        let visitors = Arc::new(Visitors::default());
        let first = id(&visitors, "192.0.2.1", "Firefox", TODAY);
        assert!(first.as_deref().is_some_and(is_visitor_id), "{first:?}");
        assert_eq!(first, id(&visitors, "192.0.2.1", "Firefox", TODAY));
        assert_eq!(first, id(&visitors, "::ffff:192.0.2.1", "Firefox", TODAY));
        for (address, agent, day) in [
            ("192.0.2.2", "Firefox", TODAY),
            ("192.0.2.1", "Chrome", TODAY),
            ("192.0.2.1", "", TODAY),
            ("2001:db8::1", "Firefox", TODAY),
            ("192.0.2.1", "Firefox", TODAY - 1),
            ("192.0.2.1", "Firefox", TODAY + 1),
        ] {
            let other = id(&visitors, address, agent, day);
            assert!(other.is_some() && other != first, "{address} {agent} {day}");
        }
        let elsewhere = Arc::new(Visitors::default());
        assert_ne!(first, id(&elsewhere, "192.0.2.1", "Firefox", TODAY));
    }

    #[test]
    fn the_key_of_a_day_is_kept_for_late_events_until_the_next_day_ends() {
        let visitors = Arc::new(Visitors::default());
        let visitor = || visitors.visitor(IpAddr::from([192, 0, 2, 1]), b"Firefox");
        let first = visitor().id_on(TODAY, TODAY);
        assert_eq!(visitor().id_on(TODAY, TODAY + 1), first);
        for too_far in [TODAY - 2, TODAY + 2] {
            assert_eq!(visitor().id_on(too_far, TODAY), None);
        }
        visitors.forget_before(TODAY + 2);
        assert!(visitors.keys.lock().is_empty());
        assert_eq!(visitor().id_on(TODAY, TODAY + 2), None);
    }
}
