//! Tests of limits of a whole store.

use std::path::Path;

use ring::hmac;
use serde_json::json;

use super::*;
use crate::config::{Durability, NameLimits};
use crate::event::{Event, EventType};
use crate::monitoring::{self, PageFormat};
use crate::progress::Progress;
use crate::store::erased::hash;
use crate::store::files::dictionary;
use crate::store::files::rows::LakeRows;
use crate::store::version::{ALWAYS_US, SealedLinks};
use crate::zones::Zones;

fn store(dir: &Path) -> Result<Store> {
    store_with(dir, NameLimits::default())
}

fn store_with(dir: &Path, names: NameLimits) -> Result<Store> {
    let config = StoreConfig {
        data_dir: dir.to_owned(),
        durability: Durability::Os,
        raw_retention_days: 90,
        rollup_retention_days: 365,
        rollup_at: chrono::NaiveTime::MIN,
        zones: Zones::default(),
        user_key_file: None,
        names,
        limit_erasure_percent: 5,
        column_share: 60,
        limit_query_mib: 1_024,
    };
    Store::open(&config, "the test", Utc::now())
}

/// An event whose line has so many bytes and some more.
fn batch(store: &Store, bytes: usize) -> Result<WriteBatch> {
    let padding = "p".repeat(bytes);
    Ok(batch_of(store, &["a user"], &padding))
}

/// An event of each of these users.
fn batch_of(store: &Store, users: &[&str], padding: &str) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for user in users {
        let event = Event {
            ts_us: 1_000_000_000_000_000,
            event_type: EventType::Action,
            user_id: Some((*user).into()),
            feature: None,
            metadata: format!(r#"{{"padding":"{padding}"}}"#).into(),
            url: None,
            event_id: None,
            received_at_us: 1_000_000_000_000_000,
        };
        store.batch_builder().push(&mut batch, &event);
    }
    batch
}

fn append(store: &Store) -> Result<()> {
    let reply = store.append(batch(store, 0)?)?.blocking_recv();
    reply.expect("a reply").map(drop)
}

/// Appends while no commit ends, until an event is rejected. Returns the number of accepted events,
/// and the reason of the rejection.
fn fill(store: &Store, bytes: usize, most: usize) -> Result<(usize, &'static str)> {
    // A commit waits for the view.
    let _held = store.versions.published();
    for taken in 0..most {
        match store.append(batch(store, bytes)?) {
            Ok(_) => {}
            Err(Error::Busy(reason)) => return Ok((taken, reason)),
            Err(error) => return Err(error),
        }
    }
    Ok((most, "nothing was rejected"))
}

/// Waits until all that was taken is stored.
fn stored(store: Store) -> usize {
    let versions = store.versions.clone();
    drop(store);
    versions.published().tail.len()
}

#[test]
fn requests_that_wait_for_a_stalled_disk_are_limited() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path())?;
    let (taken, reason) = fill(&store, 2_000, 20_000)?;
    assert_eq!(reason, "too many requests wait for the disk");
    // Those that the writer took into its group, of up to 4 MB, are not in the queue any more.
    assert!((4_096..4_096 + 2_200).contains(&taken), "{taken}");
    assert_eq!(stored(store), taken);
    Ok(())
}

#[test]
fn bytes_that_wait_for_a_stalled_disk_are_limited() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path())?;
    let (taken, reason) = fill(&store, 1 << 20, 200)?;
    assert_eq!(reason, "too many events wait for the disk");
    assert_eq!(taken, 64, "64 MB, the last of which passes the limit");
    assert_eq!(stored(store), taken);
    Ok(())
}

#[test]
fn no_events_are_accepted_while_too_many_wait_until_a_seal() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut store = store(dir.path())?;
    assert_eq!(store.ingest.max_tail_events, 16 << 20);
    store.ingest.max_tail_events = 2;
    for _ in 0..3 {
        store.check_writable()?;
        append(&store)?;
    }
    let rejected = store.check_writable();
    assert!(matches!(rejected, Err(Error::Busy(_))), "{rejected:?}");
    assert_eq!(store.seal()?.events, 3);
    store.check_writable()
}

#[test]
fn users_whom_a_table_erased_before_are_found_and_their_later_events_ignored() -> Result<()> {
    // All users have codes, or only the first one of the day.
    for new_users in [1_000_000, 1] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let names = NameLimits {
            new_users,
            ..NameLimits::default()
        };
        let store = store_with(dir.path(), names)?;
        let add = |store: &Store, batch| {
            let reply = store.append(batch)?.blocking_recv();
            reply.expect("a reply")
        };
        let of = |store: &Store, users: &[&str]| batch_of(store, users, "");
        add(&store, of(&store, &["bob", "ann"]))?;
        store.seal()?;
        add(&store, of(&store, &["cyd", "dan"]))?;
        // On its way to the log.
        let waiting = of(&store, &["eve", "fay"]);
        let users = ["ann", "cyd", "eve", "zoe"].map(str::to_owned);
        let ids = ErasedIds::of("00", &users, Utc::now());
        assert_eq!(store.learn_erased(&ids)?, ["ann", "cyd"]);
        let stored = add(&store, waiting)?;
        assert_eq!((stored.logged, stored.erased), (1, 1));
        // After a crash here, the start completes the erasure.
        assert!(store.learn_erased(&ids)?.is_empty(), "all are known");
        drop(store);
        let store = store_with(dir.path(), names)?;
        let erased = store.finish_erasures(Utc::now(), |_| Ok(()))?;
        assert_eq!(erased.map(|erased| erased.events), Some(2));
        assert!(store.learn_erased(&ids)?.is_empty());
        for user in ["ann", "zoe"] {
            assert_eq!(of(&store, &[user, "bob"]).erased, 1, "{user}");
        }
        // Some that it has erased itself.
        let before = Utc::now();
        store.note_erased(&ErasedIds::of("00", &["gus".to_owned()], Utc::now()))?;
        assert_eq!(of(&store, &["gus", "zoe", "bob"]).erased, 2);
        let known = ErasedIds::of("00", &["gus", "zoe"].map(str::to_owned), before);
        assert!(store.learn_erased(&known)?.is_empty());
    }
    Ok(())
}

#[test]
fn rotated_logs_are_due_and_a_failed_seal_waits() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path())?;
    assert_eq!(store.seal_urgency(), None);
    append(&store)?;
    assert_eq!(store.seal_urgency(), None, "it may wait some minutes");
    // Where the lake should be is a file.
    let lake = dir.path().join(LAKE_DIR);
    std::fs::write(&lake, "").expect("a writable folder");
    assert!(store.seal().is_err());
    let size = store.size();
    assert_eq!((size.waiting_logs, size.log_events), (1, 1));
    assert_eq!(store.seal_urgency(), None, "it failed just now");
    // A seal that a person asks for is tried, and rotates no second log.
    append(&store)?;
    assert!(store.seal().is_err());
    assert_eq!(store.size().waiting_logs, 1);
    store.forget_failed_seals();
    assert_eq!(store.seal_urgency(), Some(SealUrgency::Due));
    std::fs::remove_file(&lake).expect("a writable folder");
    let sealed = store.seal()?;
    assert_eq!((sealed.events, sealed.segments), (2, 2), "by two commits");
    assert_eq!(store.size().waiting_logs, 0);
    assert_eq!(store.seal_urgency(), None);
    Ok(())
}

#[test]
fn scrub_takes_no_transaction_and_its_version_stays_readable() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path())?;
    append(&store)?;
    store.seal()?;
    let transaction = store.begin()?;
    store.scrub(u64::MAX)?;
    drop(transaction);
    let version = store.versions.version();
    let retention = ExpiryPolicy {
        raw_days: 1,
        state_days: 1,
    };
    let expired = store.expire(Utc::now().date_naive(), retention, Clock::Confirmed)?;
    assert_eq!((expired.segments, expired.states), (1, 1));
    for segment in &version.segments {
        assert!(!segment.path().exists());
        segment.scrub()?;
    }
    for state in version.states.values() {
        state.verified_bytes()?;
    }
    Ok(())
}

/// While the locks that commits wait for are held, the page for monitoring is still served: it
/// would wait for ever if it took one of them, and a commit might have to wait for it.
#[test]
fn a_scrape_takes_no_lock_that_ingest_waits_for() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path())?;
    append(&store)?;
    store.monitoring().set_gauges(store.gauges());
    let (_recent, _admitted) = (store.ingest.recent.lock(), store.ingest.admission.lock());
    let _published = store.versions.published();
    let monitoring = store.monitoring().clone();
    let (sender, page) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let page = monitoring::page(&monitoring, Vec::new(), 0, PageFormat::Text);
        sender.send(page).expect("the test waits");
    });
    let page = page.recv_timeout(std::time::Duration::from_secs(60));
    let page = page.expect("no lock is waited for");
    assert!(page.contains("\nechopilot_unsealed_events 1\n"), "{page}");
    assert!(page.contains("\nechopilot_sync_duration_seconds_count 1\n"));
    Ok(())
}

/// A day of a table: users with the seconds of the day at which they were active.
fn day_of_table(rows: &[(&str, i64)]) -> Result<JoinedDay> {
    let mut events = LakeRows::for_lines(0);
    for &(user, second) in rows {
        events.push(&Event {
            ts_us: second * 1_000_000,
            event_type: EventType::Action,
            user_id: Some(user.into()),
            feature: Some("a feature".into()),
            metadata: "{}".into(),
            url: None,
            event_id: None,
            received_at_us: second * 1_000_000,
        });
    }
    JoinedDay::of(vec![events.finish()?])
}

#[test]
fn a_day_of_a_table_is_replaced_as_a_whole() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let day = chrono::NaiveDate::from_epoch_days(0).expect("a day");
    // Events and users of the day.
    let counts = |store: &Store| -> Result<Vec<(u64, u64)>> {
        let days = store.days(chrono_tz::Tz::UTC, &(0..2))?.into_iter();
        let parts = days.map(|parts| parts.activities(store.names()));
        let mut counts = Vec::new();
        for activities in parts {
            for activity in activities? {
                counts.push((activity.events, activity.users.len()));
            }
        }
        Ok(counts)
    };
    let mut opened = store(dir.path())?;
    assert!(!opened.is_copy() && !opened.has_own_events());
    for (rows, files, expected) in [
        (&[("ann", 1), ("bob", 2)][..], "one", vec![(2, 2)]),
        (&[("ann", 1), ("ann", 3), ("cyd", 4)], "two", vec![(3, 2)]),
        (&[("ann", 1), ("ann", 3), ("cyd", 4)], "three", vec![(3, 2)]),
        (&[], "", vec![]),
        (&[("dan", 5)], "four", vec![(1, 1)]),
    ] {
        opened.replace_day(day, &day_of_table(rows)?, files.into())?;
        for _ in 0..2 {
            assert_eq!(counts(&opened)?, expected, "{files:?}");
            assert_eq!(opened.followed_days()[&day], files);
            let events: usize = opened
                .sealed_events(day)?
                .iter()
                .map(|of| of.height())
                .sum();
            assert_eq!(events, rows.len());
            drop(opened);
            opened = store(dir.path())?;
        }
    }
    assert!(opened.is_copy() && !opened.has_own_events());
    append(&opened)?;
    assert!(opened.has_own_events());
    Ok(())
}

/// An identity call, some seconds after a time.
fn identify(user: &'static str, alias: &str, second: i64) -> Event<'static> {
    Event {
        ts_us: 1_000_000_000_000_000 + second * 1_000_000,
        event_type: EventType::System,
        user_id: Some(user.into()),
        feature: Some("identify".into()),
        metadata: format!(r#"{{"previous_id":"{alias}"}}"#).into(),
        url: None,
        event_id: None,
        received_at_us: 1_000_000_000_000_000,
    }
}

fn append_all(store: &Store, events: &[Event<'_>]) -> Result<()> {
    let mut batch = WriteBatch::default();
    for event in events {
        store.batch_builder().push(&mut batch, event);
    }
    let reply = store.append(batch)?.blocking_recv();
    reply.expect("a reply").map(drop)
}

/// An event of a user, and a call that makes `phone` an alias.
fn of_user(user: &'static str, ts_us: i64) -> [Event<'static>; 2] {
    let call = Event {
        ts_us,
        ..identify(user, "phone", 0)
    };
    let event = Event {
        event_type: EventType::Action,
        feature: None,
        metadata: "{}".into(),
        ..call.clone()
    };
    [event, call]
}

#[test]
fn a_user_who_comes_back_after_an_erasure_is_a_new_one() -> Result<()> {
    const MINUTE_US: i64 = 60_000_000;
    let ids = ["ann", "phone"];
    for (restarts, is_sealed) in [(false, false), (false, true), (true, false), (true, true)] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut opened = store(dir.path())?;
        let restart = |opened: &mut Store| {
            if restarts {
                // The folder is locked by the store that is open.
                *opened = {
                    drop(std::mem::replace(opened, store(&dir.path().join("other"))?));
                    store(dir.path())?
                };
            }
            Ok::<_, Error>(())
        };
        let dropped = |store: &Store, ts_us: i64| {
            let mut batch = WriteBatch::default();
            let events = of_user("ann", ts_us);
            events
                .iter()
                .for_each(|event| store.batch_builder().push(&mut batch, event));
            batch.erased
        };
        let before_us = Utc::now().timestamp_micros();
        append_all(&opened, &of_user("ann", before_us))?;
        append_all(&opened, &of_user("bob", before_us + 1))?;
        if is_sealed {
            opened.seal()?;
        }
        let erase = |store: &Store| store.erase(&ids.map(str::to_owned), Utc::now(), |_| Ok(()));
        // The call of the other user names an erased id.
        let erased = erase(&opened)?;
        assert_eq!((erased.events, erased.identity_calls), (2, 1));
        restart(&mut opened)?;
        assert_eq!(dropped(&opened, before_us), 2);
        let after_us = Utc::now().timestamp_micros() + MINUTE_US;
        append_all(&opened, &of_user("ann", after_us))?;
        for is_sealed in [false, true] {
            let names = opened.names();
            // Without the calls.
            assert_eq!(
                opened.whole(ALWAYS_US)?.count(),
                2,
                "{restarts}, {is_sealed}"
            );
            // Also now that the user is known.
            assert_eq!(dropped(&opened, before_us), 2, "{restarts}, {is_sealed}");
            assert_eq!(dropped(&opened, after_us), 0, "{restarts}, {is_sealed}");
            let [ann, phone] = ids.map(|id| names.users.find(id));
            let canonical = opened.canonical().expect("a link");
            assert_eq!(phone.map(|phone| canonical.of(phone)), ann);
            assert_eq!(
                ann.and_then(|ann| names.users.text(ann)),
                Some("ann".into())
            );
            opened.seal()?;
            assert_eq!(opened.rebuild(&Progress::default())?.changed, 0);
            restart(&mut opened)?;
        }
        let erased = erase(&opened)?;
        assert_eq!((erased.events, erased.dictionary), (2, 2));
        // Nothing of the first return is left, and the second one is as the first.
        assert_eq!(dropped(&opened, after_us), 0, "it is ahead of the clock");
        assert_eq!(opened.whole(ALWAYS_US)?.count(), 1);
        restart(&mut opened)?;
        assert_eq!(opened.numbers_of(&ids).len(), 0);
        append_all(&opened, &of_user("ann", after_us))?;
        opened.seal()?;
        drop(opened);
        let opened = store(dir.path())?;
        assert_eq!(opened.numbers_of(&ids).len(), 2);
        assert_eq!(opened.whole(ALWAYS_US)?.count(), 2);
    }
    Ok(())
}

#[test]
fn erasures_of_an_earlier_version_end_with_the_first_start() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let before_us = Utc::now().timestamp_micros();
    {
        let store = store(dir.path())?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"a key");
        let erasures = json!({"key": "a key", "erased": [hash(&key, "ann")], "pending": []});
        store.folder.replace_json(ERASURES_FILE, &erasures)?;
    }
    let until_us = |store: &Store| {
        let users = &store.ingest.maker.gate;
        assert!(users.is_erased("ann", before_us));
        assert!(!users.is_erased("bob", before_us));
        let later = (0..).map(|minutes| before_us + minutes * 60_000_000);
        later.take(10).find(|&ts_us| !users.is_erased("ann", ts_us))
    };
    let first = until_us(&store(dir.path())?);
    assert!(first.is_some());
    assert_eq!(until_us(&store(dir.path())?), first);
    let stored = std::fs::read_to_string(dir.path().join(ERASURES_FILE)).expect("a list");
    assert!(!stored.contains("9999"), "{stored}");
    Ok(())
}

#[test]
fn the_links_of_a_store_of_an_earlier_version_are_found_in_its_events() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    {
        let store = store(dir.path())?;
        let calls = [identify("ann", "phone", 5), identify("bob", "gone", 6)];
        append_all(&store, &calls)?;
        store.seal()?;
        let calls = [identify("bob", "phone", 4), identify("ann", "bob", 7)];
        append_all(&store, &calls)?;
        store.seal()?;
        // That version knew no links, and no aliases. It kept a call that names an erased id.
        let aliases = store.numbers_of(&["phone", "gone"]);
        assert_eq!(aliases.len(), 2);
        let mut transaction = store.begin()?;
        let known = transaction.base().dictionary;
        let (meta, forgotten) = dictionary::forget(&store.folder, known, &aliases)?;
        assert_eq!(forgotten, 2);
        transaction.next.dictionary = meta;
        transaction.next.links = SealedLinks::default();
        transaction.commit(|_| {})?.removed?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"a key");
        let erasures = json!({"key": "a key", "erased": [hash(&key, "gone")], "pending": []});
        store.folder.replace_json(ERASURES_FILE, &erasures)?;
    }
    for start in ["first", "second"] {
        let store = store(dir.path())?;
        assert!(store.versions.version().links.meta.is_some(), "{start}");
        let code = |id: &str| store.names().users.find(id);
        assert_eq!(code("gone"), None, "{start}");
        let links = store.all_links();
        let [phone, bob] = ["phone", "bob"].map(|id| code(id).expect("a known id"));
        assert_eq!((links.user_of(phone), links.len()), (Some(bob), 1));
        // The earlier call of two holds. The one that names the erased id makes its user known.
        assert_eq!((links.user_of(bob), links.rejected()), (None, 2));
        let canonical = store.canonical().expect("links");
        assert_eq!(canonical.of(phone), bob);
    }
    Ok(())
}

#[test]
fn a_server_keeps_what_happened_after_the_erasures_of_its_table() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = store(dir.path())?;
    let now = Utc::now();
    let now_us = now.timestamp_micros();
    let day_us = 86_400_000_000;
    append_all(&store, &of_user("ann", now_us + 5))?;
    append_all(&store, &of_user("bob", now_us - day_us))?;
    store.seal()?;
    append_all(&store, &of_user("bob", now_us + 6))?;
    append_all(&store, &of_user("cyd", now_us - 1))?;
    let erased = |users: &[&str]| {
        let users: Vec<String> = users.iter().map(|&user| user.to_owned()).collect();
        ErasedIds::of("00", &users, now)
    };
    assert_eq!(store.learn_erased(&erased(&["ann", "zoe"]))?, [""; 0]);
    assert_eq!(
        store.learn_erased(&erased(&["bob", "cyd"]))?,
        ["bob", "cyd"]
    );
    Ok(())
}

#[test]
fn an_id_that_only_a_call_of_another_user_names_is_erased_again_after_a_restore() -> Result<()> {
    let newer = {
        let dir = tempfile::tempdir().expect("a temporary folder");
        store(dir.path())?.erase(&["ghost".into()], Utc::now(), |_| Ok(()))?;
        std::fs::read(dir.path().join(ERASURES_FILE)).expect("a list")
    };
    for is_sealed in [false, true] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        {
            let store = store(dir.path())?;
            append_all(&store, &[identify("ann", "ghost", 0)])?;
            if is_sealed {
                store.seal()?;
            }
        }
        let repeated = repeat_erasures(dir.path(), &newer)?;
        assert_eq!(repeated.users, ["ghost"], "sealed: {is_sealed}");
        let store = store(dir.path())?;
        let erased = store
            .finish_erasures(Utc::now(), |_| Ok(()))?
            .expect("an erasure");
        assert_eq!((erased.events, erased.identity_calls), (0, 1));
        assert_eq!(store.whole(ALWAYS_US)?.count(), 0);
        assert!(store.finish_erasures(Utc::now(), |_| Ok(()))?.is_none());
    }
    Ok(())
}

#[test]
fn a_damaged_segment_delays_the_calls_of_its_day_and_no_others() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let opened = store(dir.path())?;
    let call = |second| identify("ann", "ghost", second);
    append_all(&opened, &[call(0), call(100_000)])?;
    opened.seal()?;
    append(&opened)?;
    opened.seal()?;
    let version = opened.versions.version();
    let damaged = version
        .segments
        .iter()
        .find(|segment| segment.meta.system == 0);
    let damaged = damaged.expect("a segment without calls").path();
    let bytes = std::fs::read(&damaged).expect("a segment");
    std::fs::write(&damaged, "damaged").expect("written");
    assert!(
        opened
            .erase(&["ghost".into()], Utc::now(), |_| Ok(()))
            .is_err()
    );
    assert_eq!(opened.versions.version().segments.len(), 2);
    drop(opened);
    std::fs::write(&damaged, bytes).expect("restored");
    let opened = store(dir.path())?;
    let erased = opened
        .finish_erasures(Utc::now(), |_| Ok(()))?
        .expect("an erasure");
    assert_eq!((erased.identity_calls, erased.segments), (1, 1));
    assert_eq!(opened.versions.version().segments.len(), 1);
    assert_eq!(opened.rebuild(&Progress::default())?.changed, 0);
    Ok(())
}
