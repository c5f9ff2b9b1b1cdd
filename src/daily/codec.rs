//! The file format of daily states. Equal states have equal bytes. Counts and the active users of
//! the day come first and can be read without the rest.
//!
//! Version 1 is `EPDAILY1`, the length of the first part (u32, little endian), the first part and
//! the second part; both parts are zstd frames. Integers are LEB128. A set of users is its size and
//! the gaps between its members: between the codes of the users in the first part, and between
//! their indexes among the users of the day in the second. Zstandard compresses a gap to about its
//! entropy, half the size of bitmaps.
//!
//! 1. The events; the users; the number of types and, for each, its name and events, first those of
//!    the funnel and then the declared ones that occur, in the order of names; the number of
//!    features and, for each in the order of names, its name and events. Version 2 (`EPDAILY2`),
//!    for days that reached the limit of new users, adds the events of the users beyond it.
//!    Version 3 (`EPDAILY3`), for days with `system` events, adds to these the number of `system`
//!    events, those of them by users beyond the limit, and their users.
//! 2. For each type and then for each feature, in the same order, its users.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::{Activity, DailyState, Members, MembersOf, SystemActivity};
use crate::dictionary::Dictionaries;
use crate::event::EventType;
use crate::leb128::{CUT, Reader, put, put_members, put_text};

const MAGIC: &[u8; 8] = b"EPDAILY1";
/// Marks a state with events of users beyond the limit.
const MAGIC_2: &[u8; 8] = b"EPDAILY2";
/// Marks a state with `system` events.
const MAGIC_3: &[u8; 8] = b"EPDAILY3";
const LENGTH_BYTES: usize = 4;
/// Level of compression; higher ones take longer for the same size.
const ZSTD_LEVEL: i32 = 3;
/// The longest part that is written or read, uncompressed: enough for a day on which every user
/// that has a code is active and uses hundreds of features.
const MAX_PART_BYTES: usize = 1 << 30;

/// Encodes a state.
///
/// # Errors
/// If it would be too large to decode.
pub fn encode(state: &DailyState, names: &Dictionaries) -> Result<Vec<u8>, String> {
    let activity = &state.activity;
    let mut features: Vec<(&str, u32)> = activity
        .features
        .keys()
        .filter_map(|&feature| Some((names.features.text(feature)?, feature)))
        .collect();
    features.sort_unstable();
    let mut first = Vec::new();
    put(&mut first, activity.events);
    put_members(&mut first, activity.users.len(), activity.users.iter());
    let types = names.listed_event_types(activity.event_types.keys().copied());
    put(&mut first, types.len() as u64);
    for (name, event_type) in &types {
        put_text(&mut first, name);
        let events = activity.event_types.get(event_type);
        put(&mut first, events.copied().unwrap_or(0));
    }
    put(&mut first, features.len() as u64);
    for (name, feature) in &features {
        put_text(&mut first, name);
        put(
            &mut first,
            activity.features.get(feature).copied().unwrap_or(0),
        );
    }
    let system = &activity.system;
    let magic = match (activity.rest_user_events, system.events) {
        (0, 0) => MAGIC,
        (_, 0) => MAGIC_2,
        _ => MAGIC_3,
    };
    if magic != MAGIC {
        put(&mut first, activity.rest_user_events);
    }
    if magic == MAGIC_3 {
        put(&mut first, system.events);
        put(&mut first, system.rest_user_events);
        put_members(&mut first, system.users.len(), system.users.iter());
    }
    let mut second = Vec::new();
    let all: Vec<u32> = activity.users.iter().collect();
    let of_types = types
        .iter()
        .map(|(_, code)| state.event_type_users.get(code));
    let of_features = features
        .iter()
        .map(|(_, code)| state.feature_users.get(code));
    for users in of_types.chain(of_features) {
        match users {
            Some(users) => put_indexes(&mut second, &all, users),
            None => put(&mut second, 0),
        }
    }
    let first = compress(&first)?;
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&(first.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&first);
    bytes.extend_from_slice(&compress(&second)?);
    Ok(bytes)
}

/// Decodes the first part of a state.
///
/// # Errors
/// A sentence about what is wrong with it.
pub fn decode_activity(bytes: &[u8], names: &Dictionaries) -> Result<Activity, String> {
    let (version, first, _) = split(bytes)?;
    Ok(FirstPart::read(version, first, names)?.activity()?.0)
}

/// Decodes a state.
///
/// # Errors
/// A sentence about what is wrong with it.
pub fn decode(bytes: &[u8], names: &Dictionaries) -> Result<DailyState, String> {
    let (version, first, second) = split(bytes)?;
    let first = FirstPart::read(version, first, names)?;
    let (types, features) = (codes(&first.types), codes(&first.features));
    let second = decompress(second)?;
    let mut reader = Reader(&second);
    let (activity, all) = first.activity()?;
    let mut state = DailyState {
        activity: Arc::new(activity),
        ..DailyState::default()
    };
    for event_type in types {
        let users = set(users_at(&mut reader, &all)?)?;
        if !users.is_empty() {
            state.event_type_users.insert(event_type, users);
        }
    }
    for feature in features {
        let users = set(users_at(&mut reader, &all)?)?;
        if !users.is_empty() {
            state.feature_users.insert(feature, users);
        }
    }
    reader.end()?;
    Ok(state)
}

/// Decodes the events and users of the event types or features that are wanted, in a fraction of
/// the time of [`decode`].
///
/// # Errors
/// A sentence about what is wrong with the state. What follows the last wanted users is not read.
pub fn decode_members(
    bytes: &[u8],
    names: &Dictionaries,
    of: MembersOf,
    is_wanted: impl Fn(u32) -> bool,
) -> Result<Vec<Members>, String> {
    let (version, first, second) = split(bytes)?;
    let first = FirstPart::read(version, first, names)?;
    let second = decompress(second)?;
    let mut reader = Reader(&second);
    let of_codes = match of {
        MembersOf::EventTypes => &first.types,
        MembersOf::Features => {
            for _ in &first.types {
                reader.skip_members()?;
            }
            &first.features
        }
    };
    let mut found = Vec::new();
    for &(code, events) in of_codes {
        if events > 0 && is_wanted(code) {
            let users = users_at(&mut reader, &first.users)?;
            found.push(Members {
                code,
                events,
                users,
            });
        } else {
            reader.skip_members()?;
        }
    }
    Ok(found)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
    V3,
}

/// The version and both parts, compressed.
fn split(bytes: &[u8]) -> Result<(Version, &[u8], &[u8]), String> {
    let v1 = bytes.strip_prefix(MAGIC).map(|rest| (Version::V1, rest));
    let v2 = || bytes.strip_prefix(MAGIC_2).map(|rest| (Version::V2, rest));
    let v3 = || bytes.strip_prefix(MAGIC_3).map(|rest| (Version::V3, rest));
    let (version, rest) = v1
        .or_else(v2)
        .or_else(v3)
        .ok_or("it is not a daily state that this version can read; use a newer one")?;
    let (length, rest) = rest.split_first_chunk::<LENGTH_BYTES>().ok_or(CUT)?;
    let (first, second) = rest
        .split_at_checked(u32::from_le_bytes(*length) as usize)
        .ok_or(CUT)?;
    Ok((version, first, second))
}

/// The first part. Types and features are in the order of the part, each with its events.
struct FirstPart {
    events: u64,
    users: Vec<u32>,
    types: Vec<(u32, u64)>,
    features: Vec<(u32, u64)>,
    rest_user_events: u64,
    system: SystemActivity,
}

impl FirstPart {
    fn read(version: Version, part: &[u8], names: &Dictionaries) -> Result<Self, String> {
        let part = decompress(part)?;
        let mut reader = Reader(&part);
        let (events, users) = (reader.number()?, reader.members()?);
        let mut types = Vec::new();
        for _ in 0..reader.number()? {
            let name = reader.text()?;
            let event_type = EventType::stored(name)
                .ok_or_else(|| format!("it has the impossible event type {name:?}"))?;
            types.push((names.event_type(event_type), reader.number()?));
        }
        let mut features = Vec::new();
        for _ in 0..reader.number()? {
            let feature = names.features.number(reader.text()?);
            let feature = feature.map_err(|error| error.to_string())?;
            features.push((feature, reader.number()?));
        }
        let mut found = Self {
            events,
            users,
            types,
            features,
            rest_user_events: 0,
            system: SystemActivity::default(),
        };
        if version != Version::V1 {
            found.rest_user_events = reader.number()?;
        }
        if version == Version::V3 {
            found.system = SystemActivity {
                events: reader.number()?,
                rest_user_events: reader.number()?,
                users: set(reader.members()?)?,
            };
        }
        reader.end()?;
        Ok(found)
    }

    /// The activity, and its users as a list.
    fn activity(self) -> Result<(Activity, Vec<u32>), String> {
        let types = self.types.into_iter();
        let activity = Activity {
            events: self.events,
            users: set(self.users.iter().copied())?,
            event_types: types.filter(|(_, events)| *events > 0).collect(),
            features: self.features.into_iter().collect(),
            rest_user_events: self.rest_user_events,
            system: self.system,
        };
        Ok((activity, self.users))
    }
}

fn codes(of: &[(u32, u64)]) -> Vec<u32> {
    of.iter().map(|(code, _)| *code).collect()
}

/// Writes a subset of the users `all` as the indexes of its members.
fn put_indexes(out: &mut Vec<u8>, all: &[u32], subset: &RoaringBitmap) {
    let mut from = 0;
    let indexes = subset.iter().map(|user| {
        let rest = all.get(from..).unwrap_or_default();
        from += rest.partition_point(|&other| other < user);
        from as u32
    });
    put_members(out, subset.len(), indexes);
}

fn compress(part: &[u8]) -> Result<Vec<u8>, String> {
    match part.len() {
        ..=MAX_PART_BYTES => {
            zstd::bulk::compress(part, ZSTD_LEVEL).map_err(|error| error.to_string())
        }
        bytes => Err(format!(
            "a part has {bytes} bytes; at most {MAX_PART_BYTES} can be read back"
        )),
    }
}

fn decompress(part: &[u8]) -> Result<Vec<u8>, String> {
    let size = zstd::zstd_safe::get_frame_content_size(part)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .filter(|&size| size <= MAX_PART_BYTES)
        .ok_or("a part has no length")?;
    zstd::bulk::decompress(part, size).map_err(|error| error.to_string())
}

/// Reads indexes that [`put_indexes`] wrote, and returns the users at them, in ascending order.
fn users_at(reader: &mut Reader<'_>, all: &[u32]) -> Result<Vec<u32>, String> {
    let mut users = reader.members()?;
    for user in &mut users {
        let at = *user as usize;
        *user = *all.get(at).ok_or("a user is not among the day's users")?;
    }
    Ok(users)
}

fn set(members: impl IntoIterator<Item = u32>) -> Result<RoaringBitmap, String> {
    RoaringBitmap::from_sorted_iter(members).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dictionary::REST_FEATURE;

    fn state(names: &Dictionaries) -> DailyState {
        let dashboard = names.features.number("dashboard").expect("few");
        let about = names.features.number("about").expect("few");
        let signup = names.event_type(EventType::Declared("signup"));
        let users: RoaringBitmap = [0, 5, 6, 70_000, u32::MAX].into_iter().collect();
        DailyState {
            activity: Arc::new(Activity {
                events: 9,
                users: users.clone(),
                event_types: [(0, 6), (1, 2), (signup, 1)].into(),
                features: [(dashboard, 7), (about, 1)].into(),
                ..Activity::default()
            }),
            event_type_users: [
                (0, users.clone()),
                (1, [5, 70_000].into_iter().collect()),
                (signup, [6].into_iter().collect()),
            ]
            .into(),
            // Only anonymous users used `about`.
            feature_users: [(dashboard, users)].into(),
        }
    }

    #[test]
    fn a_state_is_decoded_as_it_was_encoded_whatever_the_codes_of_its_features() {
        let names = Dictionaries::new().expect("names");
        let bytes = encode(&state(&names), &names).expect("small");
        assert_eq!(decode(&bytes, &names), Ok(state(&names)));
        assert_eq!(
            decode_activity(&bytes, &names),
            Ok(state(&names).activity.as_ref().clone())
        );
        assert_members(&bytes, &state(&names), &names);
        let others = Dictionaries::new().expect("names");
        let _ = others.features.number("first");
        let _ = others.features.number("about");
        let _ = others.event_type(EventType::Declared("another"));
        assert_eq!(encode(&state(&others), &others), Ok(bytes));
        let empty = DailyState::default();
        let bytes = encode(&empty, &names).expect("small");
        assert_eq!(decode(&bytes, &names), Ok(empty));
    }

    /// The members of what is wanted are those of the state.
    fn assert_members(bytes: &[u8], state: &DailyState, names: &Dictionaries) {
        for of in [MembersOf::EventTypes, MembersOf::Features] {
            let mut expected = state.members(of, |_| true);
            let mut found = decode_members(bytes, names, of, |_| true).expect("valid");
            expected.sort_by_key(|members| members.code);
            found.sort_by_key(|members| members.code);
            assert_eq!(found, expected);
            for wanted in expected {
                let is_wanted = |code| code == wanted.code;
                let found = decode_members(bytes, names, of, is_wanted);
                assert_eq!(found, Ok(vec![wanted]));
            }
        }
    }

    #[test]
    fn events_beyond_the_limits_are_kept_apart() {
        let names = Dictionaries::new().expect("names");
        let mut state = state(&names);
        let activity = Arc::make_mut(&mut state.activity);
        activity.features.insert(REST_FEATURE, 5);
        activity.rest_user_events = 4;
        let users = [6].into_iter().collect();
        state.feature_users.insert(REST_FEATURE, users);
        let bytes = encode(&state, &names).expect("small");
        assert_eq!(decode(&bytes, &names), Ok(state.clone()));
        let others = Dictionaries::new().expect("names");
        assert_eq!(
            decode_activity(&bytes, &others).map(|activity| activity.rest_user_events),
            Ok(4)
        );
    }

    #[test]
    fn system_events_are_kept_apart_from_all_counts() {
        let names = Dictionaries::new().expect("names");
        let mut with_system = state(&names);
        let activity = Arc::make_mut(&mut with_system.activity);
        activity.system = SystemActivity {
            events: 7,
            users: [5, 80_000].into_iter().collect(),
            rest_user_events: 2,
        };
        assert_eq!(with_system.greatest_user(), Some(u32::MAX));
        for rest_user_events in [0, 3] {
            let activity = Arc::make_mut(&mut with_system.activity);
            activity.rest_user_events = rest_user_events;
            let bytes = encode(&with_system, &names).expect("small");
            assert!(bytes.starts_with(MAGIC_3));
            assert_eq!(decode(&bytes, &names), Ok(with_system.clone()));
        }
        let mut removed = with_system.clone();
        removed.remove(&[80_000].into_iter().collect(), Some(&with_system));
        assert_eq!(removed.activity.system.events, 0);
        assert_eq!(
            removed.activity.system.users,
            [5].into_iter().collect::<RoaringBitmap>()
        );
        with_system.merge(&with_system.clone());
        assert_eq!(with_system.activity.system.events, 14);
        assert_eq!(with_system.activity.events, 18);
    }

    #[test]
    fn a_part_that_could_not_be_read_back_is_not_written() {
        let part = vec![0; MAX_PART_BYTES];
        let compressed = compress(&part).expect("as long as allowed");
        assert_eq!(
            decompress(&compressed).map(|part| part.len()),
            Ok(part.len())
        );
        assert!(compress(&vec![0; MAX_PART_BYTES + 1]).is_err());
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let names = Dictionaries::new().expect("names");
        let bytes = encode(&state(&names), &names).expect("small");
        for at in 0..bytes.len() {
            assert!(decode(bytes.get(..at).unwrap_or_default(), &names).is_err());
            let mut changed = bytes.clone();
            if let Some(byte) = changed.get_mut(at) {
                *byte ^= 0x55;
            }
            // If it can still be decoded, its checksum has to tell.
            let _ = decode(&changed, &names);
            let _ = decode_members(&changed, &names, MembersOf::Features, |code| code == 0);
        }
    }

    #[test]
    fn merging_is_the_union_of_the_parts() {
        let names = Dictionaries::new().expect("names");
        let mut twice = state(&names);
        twice.merge(&state(&names));
        assert_eq!(twice.activity.events, 18);
        assert_eq!(twice.activity.users, state(&names).activity.users);
        let mut from_nothing = DailyState::default();
        from_nothing.merge(&state(&names));
        assert_eq!(from_nothing, state(&names));
    }
}
