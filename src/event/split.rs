//! Splits a sequence of events into single ones, even if some of them are not valid JSON.
//!
//! Used for input that is neither one event per line nor one valid batch: arrays over many lines,
//! objects without a line break between them, syntax errors inside an event. It determines where
//! an event ends and nothing else: each piece is then parsed as strict JSON, so that nothing
//! invalid is accepted. The time is linear in the length of the input.

use std::ops::Range;

use serde::de::IgnoredAny;

/// Number of closing brackets that are tried as the end of an array if the end of an event before
/// it cannot be determined.
const TRIED_ENDS: usize = 16;
/// Limit of passes over each byte, on average, to find the ends of events. Little input needs two
/// passes; crafted quotes and brackets can make each event seem to extend to the end of the input,
/// which would need as many passes as there are events.
const MAX_PASSES: usize = 8;

/// The layout of events in some input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Each line is parsed by itself: an event, several events, or something invalid.
    Lines,
    /// Values extend over several lines: an array, an object around an array, or a sequence of
    /// formatted events.
    Document,
    /// No line begins as JSON does.
    Foreign,
}

/// Determines the layout by the first lines; `is_complete` if nothing follows `start`.
pub fn layout(start: &[u8], is_complete: bool) -> Layout {
    let begins_as_json = |line: &[u8]| line.starts_with(b"{") || line.starts_with(b"[");
    let complete = match memchr::memrchr(b'\n', start) {
        _ if is_complete => start,
        Some(newline) => start.get(..newline).unwrap_or_default(),
        None if begins_as_json(start.trim_ascii_start()) => return Layout::Document,
        None => start,
    };
    let mut lines = complete
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty());
    let Some(first) = lines.next() else {
        return Layout::Lines;
    };
    if !begins_as_json(first) {
        return if lines.any(begins_as_json) {
            Layout::Lines
        } else {
            Layout::Foreign
        };
    }
    if value_end(first, 0).is_ok() {
        return Layout::Lines;
    }
    let (Walked::Open(open), _) = walk(first, 0) else {
        return Layout::Lines;
    };
    match lines.next() {
        Some(second) if open.may_continue_with(second) => Layout::Document,
        _ => Layout::Lines,
    }
}

/// The next result of a [`Splitter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The position of an event, valid or not.
    Event(Range<usize>),
    /// More input is needed.
    More,
    /// The end of the input.
    End,
    /// The array, or the object around it, is truncated or malformed from this position on.
    Malformed(usize),
}

/// Iterates over the events of some input, which may grow at its end between two steps.
#[derive(Debug, Default)]
pub struct Splitter {
    at: usize,
    place: Place,
    sent_at: Option<Range<usize>>,
    containers: usize,
    bare_events: usize,
    /// Bytes that were read to find the ends of malformed events.
    passed: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    /// Outside of any array.
    #[default]
    Top,
    /// In an array of events.
    Array(Around),
    /// In the object around an array, before or after it.
    Object { has_array: bool },
}

/// The container of an array of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Around {
    Nothing,
    Object,
}

impl Splitter {
    /// The current position in the input.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Continues at position 0, after the caller removed the input before the current position.
    pub fn rebase(&mut self) {
        self.at = 0;
        self.passed = 0;
        self.sent_at = None;
    }

    /// Number of arrays of events so far, with or without an object around them.
    pub fn containers(&self) -> usize {
        self.containers
    }

    /// Number of events outside of any array so far.
    pub fn bare_events(&self) -> usize {
        self.bare_events
    }

    /// Position of the value of `sent_at` in the last object around an array.
    pub fn sent_at(&self) -> Option<Range<usize>> {
        self.sent_at.clone()
    }

    /// Advances to the next event; `is_complete` if the input does not grow any more.
    pub fn step(&mut self, bytes: &[u8], is_complete: bool) -> Step {
        loop {
            self.at = skip_blank(bytes, self.at);
            let Some(&byte) = bytes.get(self.at) else {
                return match (is_complete, self.place) {
                    (false, _) => Step::More,
                    (true, Place::Top) => Step::End,
                    (true, _) => Step::Malformed(self.at),
                };
            };
            let step = match (self.place, byte) {
                (Place::Top | Place::Array(_), b',') => self.skip_byte(),
                (Place::Top, b'[') => {
                    self.containers += 1;
                    self.enter(Place::Array(Around::Nothing))
                }
                (Place::Top, b'{') => match wraps_an_array(bytes, self.at, is_complete) {
                    None => Some(Step::More),
                    Some(false) => Some(self.bare_event(bytes, is_complete)),
                    Some(true) => {
                        self.containers += 1;
                        self.enter(Place::Object { has_array: false })
                    }
                },
                (Place::Top, _) => Some(self.bare_event(bytes, is_complete)),
                (Place::Array(Around::Nothing), b']') => self.enter(Place::Top),
                (Place::Array(Around::Object), b']') => {
                    self.enter(Place::Object { has_array: true })
                }
                (Place::Array(around), _) => Some(self.array_event(bytes, is_complete, around)),
                (Place::Object { has_array: true }, b'}') => self.enter(Place::Top),
                (Place::Object { has_array }, _) => self.member(bytes, is_complete, has_array),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn skip_byte(&mut self) -> Option<Step> {
        self.at += 1;
        None
    }

    fn enter(&mut self, place: Place) -> Option<Step> {
        self.place = place;
        self.skip_byte()
    }

    /// An event, valid or not, outside of any array.
    fn bare_event(&mut self, bytes: &[u8], is_complete: bool) -> Step {
        let start = self.at;
        let end = match self.event_end(bytes, start, is_complete) {
            End::At(end) => end,
            End::More => return Step::More,
            End::Nowhere | End::Truncated => line_end(bytes, start).unwrap_or(bytes.len()),
        };
        let next = skip_blank(bytes, end);
        let ends_its_line = bytes.get(end..next).is_some_and(|gap| gap.contains(&b'\n'));
        let end = match bytes.get(next) {
            None if !is_complete => return Step::More,
            None | Some(b'{' | b'[' | b',') => end,
            Some(_) if ends_its_line => end,
            // Other bytes here belong to the event, which is then not valid JSON.
            Some(_) => match line_end(bytes, next) {
                None if !is_complete => return Step::More,
                found => found.unwrap_or(bytes.len()),
            },
        };
        self.bare_events += 1;
        self.at = end;
        Step::Event(start..end)
    }

    /// An event of an array, valid or not, with all bytes up to the next one.
    fn array_event(&mut self, bytes: &[u8], is_complete: bool, around: Around) -> Step {
        let start = self.at;
        let end = match self.event_end(bytes, start, is_complete) {
            End::At(end) => end,
            End::More => return Step::More,
            End::Truncated => return Step::Malformed(start),
            End::Nowhere => match array_end(bytes, start, around) {
                Some(end) => end,
                None => return Step::Malformed(start),
            },
        };
        let next = skip_blank(bytes, end);
        let end = match bytes.get(next) {
            None if !is_complete => return Step::More,
            None | Some(b',' | b']' | b'{') => end,
            // Other bytes here belong to the event, which is then not valid JSON.
            Some(_) => match after_event(bytes, next) {
                Some(end) => end,
                None if !is_complete => return Step::More,
                None => return Step::Malformed(start),
            },
        };
        self.at = end;
        Step::Event(start..end)
    }

    /// A member of the object around an array.
    fn member(&mut self, bytes: &[u8], is_complete: bool, has_array: bool) -> Option<Step> {
        if bytes.get(self.at) == Some(&b',') {
            return self.skip_byte();
        }
        let malformed = |at| {
            Some(if is_complete {
                Step::Malformed(at)
            } else {
                Step::More
            })
        };
        let Some((key, value)) = key_at(bytes, self.at) else {
            return malformed(self.at);
        };
        if bytes.get(key.clone()) == Some(EVENTS) {
            if has_array || bytes.get(value) != Some(&b'[') {
                return Some(Step::Malformed(self.at));
            }
            self.at = value;
            return self.enter(Place::Array(Around::Object));
        }
        let end = match value_end(bytes, value) {
            // A number at the end of the input may continue.
            Ok(end) if is_complete || end < bytes.len() => end,
            _ => match self.event_end(bytes, value, is_complete) {
                End::At(end) => end,
                _ => return malformed(self.at),
            },
        };
        if bytes.get(key) == Some(b"\"sent_at\"") {
            self.sent_at = Some(value..end);
        }
        self.at = end;
        None
    }
}

const EVENTS: &[u8] = b"\"events\"";
const EVENT_TYPE: &[u8] = b"\"event_type\"";

/// True if the object at `at` is one around an array of events, and not an event. `None` if the
/// input ends before that is known.
fn wraps_an_array(bytes: &[u8], at: usize, is_complete: bool) -> Option<bool> {
    let open_end = (is_complete).then_some(false);
    let mut at = at + 1;
    loop {
        at = skip_blank(bytes, at);
        match bytes.get(at) {
            None => return open_end,
            Some(b',') => {
                at += 1;
                continue;
            }
            Some(b'"') => {}
            Some(_) => return Some(false),
        }
        let Some((key, value)) = key_at(bytes, at) else {
            // The key may continue after the end of the input.
            return match string_end(bytes, at).map(|end| skip_blank(bytes, end)) {
                Some(after) if after < bytes.len() && bytes.get(after) != Some(&b':') => {
                    Some(false)
                }
                _ => open_end,
            };
        };
        match bytes.get(key) {
            Some(EVENT_TYPE) => return Some(false),
            Some(EVENTS) => return Some(bytes.get(value) == Some(&b'[')),
            _ => {}
        }
        at = match value_end(bytes, value) {
            Ok(end) if end < bytes.len() || is_complete => end,
            Err(Fault::Invalid) => return Some(false),
            _ => return open_end,
        };
    }
}

/// The key at `at`, with its quotes, and the position of its value.
fn key_at(bytes: &[u8], at: usize) -> Option<(Range<usize>, usize)> {
    let end = string_end(bytes, at).filter(|_| bytes.get(at) == Some(&b'"'))?;
    let colon = skip_blank(bytes, end);
    let value = skip_blank(bytes, colon + 1);
    (bytes.get(colon) == Some(&b':') && value < bytes.len()).then_some((at..end, value))
}

/// The end of an event, valid or not.
enum End {
    At(usize),
    /// More input is needed to determine it.
    More,
    /// It cannot be determined, because quotes or brackets do not match.
    Nowhere,
    /// The input ends within the event, and its quotes and brackets match so far.
    Truncated,
}

impl Splitter {
    /// Determines the end of the event at `start`.
    fn event_end(&mut self, bytes: &[u8], start: usize, is_complete: bool) -> End {
        match value_end(bytes, start) {
            Ok(end) if is_complete || end < bytes.len() => return End::At(end),
            Ok(_) => return End::More,
            Err(Fault::EndsEarly) if !is_complete => return End::More,
            Err(_) => {}
        }
        let (walked, stopped) = walk(bytes, start);
        // It went at least as far as the JSON parser.
        self.passed += stopped - start;
        if self.passed > MAX_PASSES * bytes.len() {
            return End::Truncated;
        }
        let found = match &walked {
            Walked::Closed { quotes_match: true } => Some(stopped),
            Walked::Closed {
                quotes_match: false,
            } => next_event(bytes, start, stopped).or(Some(stopped)),
            Walked::Word => (stopped < bytes.len() || is_complete).then_some(stopped),
            Walked::NewEvent => Some(before_comma(bytes, start, stopped)),
            Walked::Open(open) if open.is_valid_so_far => None,
            Walked::Mismatch | Walked::Open(_) => next_event(bytes, start, bytes.len()),
        };
        match (found, walked) {
            (Some(end), _) => End::At(end),
            (None, _) if !is_complete => End::More,
            (None, Walked::Open(open)) if open.is_valid_so_far => End::Truncated,
            (None, _) => End::Nowhere,
        }
    }
}

/// The reason why there is no valid JSON value.
enum Fault {
    /// The input ends within it.
    EndsEarly,
    Invalid,
}

/// The end of the valid JSON value at `at`.
fn value_end(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    let value = bytes.get(at..).unwrap_or_default();
    let mut values = serde_json::Deserializer::from_slice(value).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => Ok(at + values.byte_offset()),
        Some(Err(error)) if !error.is_eof() => Err(Fault::Invalid),
        _ => Err(Fault::EndsEarly),
    }
}

/// The extent of a malformed value, by its brackets and quotes.
enum Walked {
    /// All brackets are closed. Quotes match if each string is followed by a byte that may follow
    /// one.
    Closed { quotes_match: bool },
    /// It is not an object, an array or a string.
    Word,
    /// An object begins where a key should: the closing bracket is missing.
    NewEvent,
    /// A closing bracket has no opening one.
    Mismatch,
    /// The input ends within it.
    Open(Open),
}

/// The state at the end of the input.
struct Open {
    in_string: bool,
    /// True if the value could become valid, as far as its quotes show.
    is_valid_so_far: bool,
    innermost: u8,
    last: u8,
}

impl Open {
    /// True if the next line may belong to the same value.
    fn may_continue_with(&self, line: &[u8]) -> bool {
        let begins_a_value = line.starts_with(b"{") || line.starts_with(b"[");
        let wants_a_value = match self.last {
            b'[' | b':' => true,
            b',' => self.innermost == b'[',
            _ => false,
        };
        !begins_a_value || (wants_a_value && !self.in_string)
    }
}

/// Follows brackets and quotes from `start`. Returns the position where it stopped, too.
fn walk(bytes: &[u8], start: usize) -> (Walked, usize) {
    if !matches!(bytes.get(start), Some(b'{' | b'[' | b'"')) {
        let rest = bytes.get(start..).unwrap_or_default();
        let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b'{' | b'\n');
        // The first byte belongs to the word, even if it is one of these.
        let length = rest.iter().skip(1).position(ends);
        let end = length.map_or(bytes.len(), |length| start + 1 + length);
        return (Walked::Word, end);
    }
    let mut open = Vec::new();
    let mut last = b' ';
    let mut quotes_match = true;
    let mut in_string = false;
    let mut at = start;
    while let Some(&byte) = bytes.get(at) {
        let mut end = at + 1;
        match byte {
            b'"' => {
                let Some(after) = string_end(bytes, at) else {
                    in_string = true;
                    break;
                };
                let next = bytes.get(skip_blank(bytes, after));
                quotes_match &= matches!(next, None | Some(b':' | b',' | b'}' | b']'));
                end = after;
            }
            b'{' if last == b',' && open.last() == Some(&b'{') => return (Walked::NewEvent, at),
            b'{' | b'[' => open.push(byte),
            b'}' | b']' => {
                let opening = if byte == b'}' { b'{' } else { b'[' };
                if open.pop() != Some(opening) {
                    return (Walked::Mismatch, at);
                }
            }
            _ => {}
        }
        if open.is_empty() {
            return (Walked::Closed { quotes_match }, end);
        }
        if !is_blank(byte) {
            last = byte;
        }
        at = end;
    }
    let open = Open {
        in_string,
        is_valid_so_far: quotes_match && !in_string,
        innermost: open.last().copied().unwrap_or_default(),
        last,
    };
    (Walked::Open(open), bytes.len())
}

/// The end of an event whose own brackets do not show it, by the start of the next one: an object
/// that begins, before `limit`, where as many braces are closed as were opened, ignoring quotes.
fn next_event(bytes: &[u8], start: usize, limit: usize) -> Option<usize> {
    let mut depth = 0_i64;
    let mut at = start;
    loop {
        at += memchr::memchr2(b'{', b'}', bytes.get(at..limit)?)?;
        match bytes.get(at)? {
            b'{' if depth == 0 && at > start && follows_an_event(bytes, start, at) => {
                return Some(before_comma(bytes, start, at));
            }
            b'{' => depth += 1,
            _ => depth -= 1,
        }
        at += 1;
    }
}

/// True if the byte before `at` may separate two events, and the brace at `at` opens an object
/// with keys.
fn follows_an_event(bytes: &[u8], start: usize, at: usize) -> bool {
    let before = bytes.get(start..at).unwrap_or_default().trim_ascii_end();
    let opens = matches!(bytes.get(skip_blank(bytes, at + 1)), Some(b'"' | b'}'));
    opens && (before.ends_with(b",") || before.ends_with(b"}"))
}

/// The end of the event before `at`, without the comma between.
fn before_comma(bytes: &[u8], start: usize, at: usize) -> usize {
    let before = bytes.get(start..at).unwrap_or_default().trim_ascii_end();
    let before = before.strip_suffix(b",").unwrap_or(before);
    start + before.trim_ascii_end().len()
}

/// The position where an array continues after unexpected bytes: a comma before an object, or the
/// end of the array.
fn after_event(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        at += memchr::memchr2(b',', b']', bytes.get(at..)?)?;
        let next = bytes.get(skip_blank(bytes, at + 1));
        let goes_on = match bytes.get(at)? {
            b',' => next == Some(&b'{'),
            _ => matches!(next, None | Some(b'}' | b',')),
        };
        if goes_on {
            return Some(at);
        }
        at += 1;
    }
}

/// The last bracket that ends the array and its container, if the end of an event before it cannot
/// be determined.
fn array_end(bytes: &[u8], start: usize, around: Around) -> Option<usize> {
    let rest = bytes.get(start..)?;
    let found = memchr::memrchr_iter(b']', rest)
        .take(TRIED_ENDS)
        .find(|at| {
            let after = rest.get(at + 1..).unwrap_or_default();
            match around {
                Around::Nothing => after.trim_ascii().is_empty(),
                Around::Object => {
                    let object = [b"{\"\":0", after].concat();
                    serde_json::from_slice::<IgnoredAny>(&object).is_ok()
                }
            }
        });
    found.map(|at| start + at)
}

/// The end of the line of a malformed event outside of any array: before the next line that begins
/// like an event.
fn line_end(bytes: &[u8], start: usize) -> Option<usize> {
    let rest = bytes.get(start..)?;
    let found = memchr::memchr_iter(b'\n', rest).find(|newline| {
        matches!(
            bytes.get(skip_blank(bytes, start + newline)),
            Some(b'{' | b'[')
        )
    });
    found.map(|newline| start + newline)
}

/// The end of the string at `at`, after its quote.
fn string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn skip_blank(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| is_blank(**byte)).count()
}
