//! The file format of daily states. Equal states have equal bytes. Counts and the active users of
//! the day come first and can be read without the rest.
//!
//! Version 1 is `EPDAILY1`, the length of the first part (u32, little endian), the first part and
//! the second part; both parts are zstd frames. Integers are LEB128. A set of users is its size and
//! the gaps between its members: between the codes of the users in the first part, and between
//! their indexes among the users of the day in the second. Zstandard compresses a gap to about its
//! entropy, half the size of bitmaps.
//!
//! 1. The events; the users; the number of types and, for each, its name and events; the number of
//!    features and, for each in the order of names, its name and events. Version 2 (`EPDAILY2`),
//!    for days that reached the limit of new users, adds the events of the users beyond it.
//! 2. For each type and then for each feature, in the same order, its users.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::{Activity, DailyState};
use crate::dictionary::Dictionaries;
use crate::event::EventType;
use crate::leb128::{CUT, Reader, put, put_members, put_text};

const MAGIC: &[u8; 8] = b"EPDAILY1";
/// Marks a state with events of users beyond the limit.
const MAGIC_2: &[u8; 8] = b"EPDAILY2";
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
    put(&mut first, EventType::ALL.len() as u64);
    for (event_type, events) in EventType::ALL.iter().zip(activity.event_types) {
        put_text(&mut first, event_type.name());
        put(&mut first, events);
    }
    put(&mut first, features.len() as u64);
    for (name, feature) in &features {
        put_text(&mut first, name);
        put(
            &mut first,
            activity.features.get(feature).copied().unwrap_or(0),
        );
    }
    if activity.rest_user_events > 0 {
        put(&mut first, activity.rest_user_events);
    }
    let mut second = Vec::new();
    let all: Vec<u32> = activity.users.iter().collect();
    for users in &state.event_type_users {
        put_indexes(&mut second, &all, users);
    }
    for (_, feature) in &features {
        match state.feature_users.get(feature) {
            Some(users) => put_indexes(&mut second, &all, users),
            None => put(&mut second, 0),
        }
    }
    let first = compress(&first)?;
    let magic = match activity.rest_user_events {
        0 => MAGIC,
        _ => MAGIC_2,
    };
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
    Ok(read_activity(version, first, names)?.0)
}

/// Decodes a state.
///
/// # Errors
/// A sentence about what is wrong with it.
pub fn decode(bytes: &[u8], names: &Dictionaries) -> Result<DailyState, String> {
    let (version, first, second) = split(bytes)?;
    let (activity, features) = read_activity(version, first, names)?;
    let second = decompress(second)?;
    let mut reader = Reader(&second);
    let all: Vec<u32> = activity.users.iter().collect();
    let mut state = DailyState {
        activity: Arc::new(activity),
        ..DailyState::default()
    };
    for users in &mut state.event_type_users {
        *users = users_at(&mut reader, &all)?;
    }
    for feature in features {
        let users = users_at(&mut reader, &all)?;
        if !users.is_empty() {
            state.feature_users.insert(feature, users);
        }
    }
    reader.end()?;
    Ok(state)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The version and both parts, compressed.
fn split(bytes: &[u8]) -> Result<(Version, &[u8], &[u8]), String> {
    let v1 = bytes.strip_prefix(MAGIC).map(|rest| (Version::V1, rest));
    let v2 = || bytes.strip_prefix(MAGIC_2).map(|rest| (Version::V2, rest));
    let (version, rest) = v1
        .or_else(v2)
        .ok_or("it is not a daily state that this version can read; use a newer one")?;
    let (length, rest) = rest.split_first_chunk::<LENGTH_BYTES>().ok_or(CUT)?;
    let (first, second) = rest
        .split_at_checked(u32::from_le_bytes(*length) as usize)
        .ok_or(CUT)?;
    Ok((version, first, second))
}

/// Decodes the first part: the activity, and the codes of the features in the order of their names.
fn read_activity(
    version: Version,
    part: &[u8],
    names: &Dictionaries,
) -> Result<(Activity, Vec<u32>), String> {
    let part = decompress(part)?;
    let mut reader = Reader(&part);
    let mut activity = Activity {
        events: reader.number()?,
        users: set(reader.members()?)?,
        ..Activity::default()
    };
    for _ in 0..reader.number()? {
        let name = reader.text()?;
        let events = reader.number()?;
        let at = EventType::ALL.iter().position(|known| known.name() == name);
        let slot = at.and_then(|at| activity.event_types.get_mut(at));
        *slot.ok_or_else(|| format!("it has the unknown event type {name}"))? = events;
    }
    let mut features = Vec::new();
    for _ in 0..reader.number()? {
        let name = reader.text()?;
        let feature = names
            .features
            .number(name)
            .map_err(|error| error.to_string())?;
        activity.features.insert(feature, reader.number()?);
        features.push(feature);
    }
    if version == Version::V2 {
        activity.rest_user_events = reader.number()?;
    }
    reader.end()?;
    Ok((activity, features))
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

/// Reads indexes that [`put_indexes`] wrote, and returns the users at them.
fn users_at(reader: &mut Reader<'_>, all: &[u32]) -> Result<RoaringBitmap, String> {
    let indexes = reader.members()?;
    let users = indexes.iter().map(|&at| all.get(at as usize).copied());
    let users: Option<Vec<u32>> = users.collect();
    set(users.ok_or("a user is not among the day's users")?)
}

fn set(members: Vec<u32>) -> Result<RoaringBitmap, String> {
    RoaringBitmap::from_sorted_iter(members).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dictionary::REST_FEATURE;

    fn state(names: &Dictionaries) -> DailyState {
        let dashboard = names.features.number("dashboard").expect("few");
        let about = names.features.number("about").expect("few");
        let users: RoaringBitmap = [0, 5, 6, 70_000, u32::MAX].into_iter().collect();
        DailyState {
            activity: Arc::new(Activity {
                events: 9,
                users: users.clone(),
                event_types: [6, 3, 0],
                features: [(dashboard, 7), (about, 1)].into(),
                rest_user_events: 0,
            }),
            event_type_users: [
                users.clone(),
                [5, 70_000].into_iter().collect(),
                RoaringBitmap::new(),
            ],
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
        let others = Dictionaries::new().expect("names");
        let _ = others.features.number("first");
        let _ = others.features.number("about");
        assert_eq!(encode(&state(&others), &others), Ok(bytes));
        let empty = DailyState::default();
        let bytes = encode(&empty, &names).expect("small");
        assert_eq!(decode(&bytes, &names), Ok(empty));
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
