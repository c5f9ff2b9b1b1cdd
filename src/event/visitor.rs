//! The form of the ids of daily visitors, by which they are recognized in stored events.

/// The first character of the id of a daily visitor.
pub const VISITOR_PREFIX: char = '~';
/// Characters after it: 96 bits, in which no two of a billion visitors are likely to be equal.
pub const VISITOR_CHARS: usize = 16;

/// True if an id has the form of those that `--visitors daily` makes.
pub fn is_visitor_id(id: &str) -> bool {
    id.strip_prefix(VISITOR_PREFIX).is_some_and(|rest| {
        let is_of_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        rest.len() == VISITOR_CHARS && rest.bytes().all(is_of_base64)
    })
}
