//! Where each event of a text begins and ends, whatever is wrong in or around it.
//!
//! The slow way, for texts that are not one event a line or one well-formed batch: lists over many lines, objects without a
//! line break between them, syntax errors inside one event. It decides where an event ends and nothing else: what it finds is
//! read as strict JSON afterwards, so that nothing is accepted that cannot be understood. Time is linear in the text.

use std::ops::Range;

use serde::de::IgnoredAny;

/// Brackets of a list that are tried as its end when an event before it cannot be delimited.
const TRIED_ENDS: usize = 16;
/// How often, on average, a byte of a text may be passed over for an event whose end lies before it. Few texts need two; where
/// quotes and brackets were put so that each event seems to go on to the end, it would be as often as there are events.
const MAX_PASSES: usize = 8;

/// How the events of a text are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Each line stands for itself: an event, several, or something wrong.
    Lines,
    /// Values that go over several lines: a list, an object around a list, or formatted events one after the other.
    Document,
    /// No line begins as JSON does.
    Foreign,
}

/// Finds the layout by the first lines; `is_whole` if nothing follows `start`.
pub fn layout(start: &[u8], is_whole: bool) -> Layout {
    let begins_as_json = |line: &[u8]| line.starts_with(b"{") || line.starts_with(b"[");
    let whole = match memchr::memrchr(b'\n', start) {
        _ if is_whole => start,
        Some(newline) => start.get(..newline).unwrap_or_default(),
        None if begins_as_json(start.trim_ascii_start()) => return Layout::Document,
        None => start,
    };
    let mut lines = whole
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty());
    let Some(first) = lines.next() else {
        return Layout::Lines;
    };
    if !begins_as_json(first) {
        return match lines.any(begins_as_json) {
            true => Layout::Lines,
            false => Layout::Foreign,
        };
    }
    if value_end(first, 0).is_ok() {
        return Layout::Lines;
    }
    let (Walked::Open(open), _) = walk(first, 0) else {
        return Layout::Lines;
    };
    match lines.next() {
        Some(second) if open.may_go_on_with(second) => Layout::Document,
        _ => Layout::Lines,
    }
}

/// What a [`Splitter`] finds next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// What stands in the place of an event, readable or not.
    Event(Range<usize>),
    /// The text must go on before more can be said.
    More,
    /// Nothing follows.
    End,
    /// From here on nothing can be understood: the list or the object around it is cut off or broken.
    Broken(usize),
}

/// Goes through a text from event to event. The text may grow at its end between two steps.
#[derive(Debug, Default)]
pub struct Splitter {
    at: usize,
    place: Place,
    sent_at: Option<Range<usize>>,
    containers: usize,
    bare_events: usize,
    /// Bytes that were looked through to find the ends of broken events.
    passed: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    /// Outside of any list.
    #[default]
    Top,
    /// In a list of events.
    List(Around),
    /// In the object around a list, before or after it.
    Object { has_list: bool },
}

/// What is around a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Around {
    Nothing,
    Object,
}

impl Splitter {
    /// Where it is in the text.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Forgets the text up to its position, which its owner takes away.
    pub fn rebase(&mut self) {
        self.at = 0;
        self.passed = 0;
        self.sent_at = None;
    }

    /// Lists of events that it came across, each with the object around it.
    pub fn containers(&self) -> usize {
        self.containers
    }

    /// Events outside of any list that it came across.
    pub fn bare_events(&self) -> usize {
        self.bare_events
    }

    /// The value of `sent_at` of the last object around a list.
    pub fn sent_at(&self) -> Option<Range<usize>> {
        self.sent_at.clone()
    }

    /// Goes on to the next event; `is_whole` if the text does not grow any more.
    pub fn step(&mut self, text: &[u8], is_whole: bool) -> Step {
        loop {
            self.at = skip_blank(text, self.at);
            let Some(&byte) = text.get(self.at) else {
                return match (is_whole, self.place) {
                    (false, _) => Step::More,
                    (true, Place::Top) => Step::End,
                    (true, _) => Step::Broken(self.at),
                };
            };
            let step = match (self.place, byte) {
                (Place::Top | Place::List(_), b',') => self.pass(),
                (Place::Top, b'[') => {
                    self.containers += 1;
                    self.enter(Place::List(Around::Nothing))
                }
                (Place::Top, b'{') => match wraps_a_list(text, self.at, is_whole) {
                    None => Some(Step::More),
                    Some(false) => Some(self.bare_event(text, is_whole)),
                    Some(true) => {
                        self.containers += 1;
                        self.enter(Place::Object { has_list: false })
                    }
                },
                (Place::Top, _) => Some(self.bare_event(text, is_whole)),
                (Place::List(Around::Nothing), b']') => self.enter(Place::Top),
                (Place::List(Around::Object), b']') => self.enter(Place::Object { has_list: true }),
                (Place::List(around), _) => Some(self.listed_event(text, is_whole, around)),
                (Place::Object { has_list: true }, b'}') => self.enter(Place::Top),
                (Place::Object { has_list }, _) => self.member(text, is_whole, has_list),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn pass(&mut self) -> Option<Step> {
        self.at += 1;
        None
    }

    fn enter(&mut self, place: Place) -> Option<Step> {
        self.place = place;
        self.pass()
    }

    /// An event, or whatever is in its place, outside of any list.
    fn bare_event(&mut self, text: &[u8], is_whole: bool) -> Step {
        let start = self.at;
        let end = match self.event_end(text, start, is_whole) {
            End::At(end) => end,
            End::More => return Step::More,
            End::Nowhere | End::CutOff => line_end(text, start).unwrap_or(text.len()),
        };
        let next = skip_blank(text, end);
        let ends_its_line = text.get(end..next).is_some_and(|gap| gap.contains(&b'\n'));
        let end = match text.get(next) {
            None if !is_whole => return Step::More,
            None | Some(b'{' | b'[' | b',') => end,
            Some(_) if ends_its_line => end,
            // What should not be here belongs to the event, which is then no JSON.
            Some(_) => match line_end(text, next) {
                None if !is_whole => return Step::More,
                found => found.unwrap_or(text.len()),
            },
        };
        self.bare_events += 1;
        self.at = end;
        Step::Event(start..end)
    }

    /// An event of a list, or whatever is in its place, with what follows it up to the next one.
    fn listed_event(&mut self, text: &[u8], is_whole: bool, around: Around) -> Step {
        let start = self.at;
        let end = match self.event_end(text, start, is_whole) {
            End::At(end) => end,
            End::More => return Step::More,
            End::CutOff => return Step::Broken(start),
            End::Nowhere => match list_end(text, start, around) {
                Some(end) => end,
                None => return Step::Broken(start),
            },
        };
        let next = skip_blank(text, end);
        let end = match text.get(next) {
            None if !is_whole => return Step::More,
            None | Some(b',' | b']' | b'{') => end,
            // What should not be here belongs to the event, which is then no JSON.
            Some(_) => match after_event(text, next) {
                Some(end) => end,
                None if !is_whole => return Step::More,
                None => return Step::Broken(start),
            },
        };
        self.at = end;
        Step::Event(start..end)
    }

    /// A member of the object around a list.
    fn member(&mut self, text: &[u8], is_whole: bool, has_list: bool) -> Option<Step> {
        if text.get(self.at) == Some(&b',') {
            return self.pass();
        }
        let broken = |at| match is_whole {
            true => Some(Step::Broken(at)),
            false => Some(Step::More),
        };
        let Some((key, value)) = key_at(text, self.at) else {
            return broken(self.at);
        };
        if text.get(key.clone()) == Some(EVENTS) {
            if has_list || text.get(value) != Some(&b'[') {
                return Some(Step::Broken(self.at));
            }
            self.at = value;
            return self.enter(Place::List(Around::Object));
        }
        let end = match value_end(text, value) {
            // A number at the end of the text may go on.
            Ok(end) if is_whole || end < text.len() => end,
            _ => match self.event_end(text, value, is_whole) {
                End::At(end) => end,
                _ => return broken(self.at),
            },
        };
        if text.get(key) == Some(b"\"sent_at\"") {
            self.sent_at = Some(value..end);
        }
        self.at = end;
        None
    }
}

const EVENTS: &[u8] = b"\"events\"";
const EVENT_TYPE: &[u8] = b"\"event_type\"";

/// Whether the object at a place is one around a list of events, and not an event. `None` if the text ends too early.
fn wraps_a_list(text: &[u8], at: usize, is_whole: bool) -> Option<bool> {
    let open_end = (is_whole).then_some(false);
    let mut at = at + 1;
    loop {
        at = skip_blank(text, at);
        match text.get(at) {
            None => return open_end,
            Some(b',') => {
                at += 1;
                continue;
            }
            Some(b'"') => {}
            Some(_) => return Some(false),
        }
        let Some((key, value)) = key_at(text, at) else {
            // The key may be cut off by the end of the text.
            return match string_end(text, at).map(|end| skip_blank(text, end)) {
                Some(after) if after < text.len() && text.get(after) != Some(&b':') => Some(false),
                _ => open_end,
            };
        };
        match text.get(key) {
            Some(EVENT_TYPE) => return Some(false),
            Some(EVENTS) => return Some(text.get(value) == Some(&b'[')),
            _ => {}
        }
        at = match value_end(text, value) {
            Ok(end) if end < text.len() || is_whole => end,
            Err(Fault::Wrong) => return Some(false),
            _ => return open_end,
        };
    }
}

/// The key at a place, with its quotes, and where its value begins.
fn key_at(text: &[u8], at: usize) -> Option<(Range<usize>, usize)> {
    let end = string_end(text, at).filter(|_| text.get(at) == Some(&b'"'))?;
    let colon = skip_blank(text, end);
    let value = skip_blank(text, colon + 1);
    (text.get(colon) == Some(&b':') && value < text.len()).then_some((at..end, value))
}

/// Where what stands in the place of an event ends.
enum End {
    At(usize),
    /// The text must go on before that can be said.
    More,
    /// Nothing shows where, because its quotes or brackets do not fit.
    Nowhere,
    /// The text ends within it, and nothing before is wrong with its quotes and brackets.
    CutOff,
}

impl Splitter {
    /// Finds the end of what begins at a place.
    fn event_end(&mut self, text: &[u8], start: usize, is_whole: bool) -> End {
        match value_end(text, start) {
            Ok(end) if is_whole || end < text.len() => return End::At(end),
            Ok(_) => return End::More,
            Err(Fault::EndsEarly) if !is_whole => return End::More,
            Err(_) => {}
        }
        let (walked, stopped) = walk(text, start);
        // It went at least as far as the reader of JSON.
        self.passed += stopped - start;
        if self.passed > MAX_PASSES * text.len() {
            return End::CutOff;
        }
        let found = match &walked {
            Walked::Closed { quotes_fit: true } => Some(stopped),
            Walked::Closed { quotes_fit: false } => {
                next_event(text, start, stopped).or(Some(stopped))
            }
            Walked::Word => (stopped < text.len() || is_whole).then_some(stopped),
            Walked::NewEvent => Some(before_comma(text, start, stopped)),
            Walked::Open(open) if open.fits => None,
            Walked::Mismatch | Walked::Open(_) => next_event(text, start, text.len()),
        };
        match (found, walked) {
            (Some(end), _) => End::At(end),
            (None, _) if !is_whole => End::More,
            (None, Walked::Open(open)) if open.fits => End::CutOff,
            (None, _) => End::Nowhere,
        }
    }
}

/// Why there is no JSON value.
enum Fault {
    /// The text ends within it.
    EndsEarly,
    Wrong,
}

/// Where the JSON value at a place ends.
fn value_end(text: &[u8], at: usize) -> Result<usize, Fault> {
    let value = text.get(at..).unwrap_or_default();
    let mut values = serde_json::Deserializer::from_slice(value).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => Ok(at + values.byte_offset()),
        Some(Err(error)) if !error.is_eof() => Err(Fault::Wrong),
        _ => Err(Fault::EndsEarly),
    }
}

/// How far the brackets and quotes of a value that is no JSON go.
enum Walked {
    /// Its last bracket is closed. Quotes fit if what follows each string may follow a string.
    Closed { quotes_fit: bool },
    /// It is no object, list or string.
    Word,
    /// An object begins where a key should: its own bracket was left out.
    NewEvent,
    /// A bracket closes what was not opened.
    Mismatch,
    /// The text ends within it.
    Open(Open),
}

/// In what state a text ends.
struct Open {
    in_string: bool,
    /// Whether the text could go on to be right, as far as quotes tell.
    fits: bool,
    innermost: u8,
    last: u8,
}

impl Open {
    /// Whether the next line may belong to the same value.
    fn may_go_on_with(&self, line: &[u8]) -> bool {
        let begins_a_value = line.starts_with(b"{") || line.starts_with(b"[");
        let wants_a_value = match self.last {
            b'[' | b':' => true,
            b',' => self.innermost == b'[',
            _ => false,
        };
        !begins_a_value || (wants_a_value && !self.in_string)
    }
}

/// Follows brackets and quotes from a place on. Where it stopped, too.
fn walk(text: &[u8], start: usize) -> (Walked, usize) {
    if !matches!(text.get(start), Some(b'{' | b'[' | b'"')) {
        let rest = text.get(start..).unwrap_or_default();
        let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b'{' | b'\n');
        // Where it begins with one of these it has at least that.
        let length = rest.iter().skip(1).position(ends);
        let end = length.map_or(text.len(), |length| start + 1 + length);
        return (Walked::Word, end);
    }
    let mut open = Vec::new();
    let mut last = b' ';
    let mut quotes_fit = true;
    let mut in_string = false;
    let mut at = start;
    while let Some(&byte) = text.get(at) {
        let mut end = at + 1;
        match byte {
            b'"' => {
                let Some(after) = string_end(text, at) else {
                    in_string = true;
                    break;
                };
                let next = text.get(skip_blank(text, after));
                quotes_fit &= matches!(next, None | Some(b':' | b',' | b'}' | b']'));
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
            return (Walked::Closed { quotes_fit }, end);
        }
        if !is_blank(byte) {
            last = byte;
        }
        at = end;
    }
    let open = Open {
        in_string,
        fits: quotes_fit && !in_string,
        innermost: open.last().copied().unwrap_or_default(),
        last,
    };
    (Walked::Open(open), text.len())
}

/// Where an event that cannot be delimited by itself ends, as the next one shows: an object that begins, before `limit`, where
/// as many braces are closed as were opened, whatever the quotes say.
fn next_event(text: &[u8], start: usize, limit: usize) -> Option<usize> {
    let mut depth = 0_i64;
    let mut at = start;
    loop {
        at += memchr::memchr2(b'{', b'}', text.get(at..limit)?)?;
        match text.get(at)? {
            b'{' if depth == 0 && at > start && follows_an_event(text, start, at) => {
                return Some(before_comma(text, start, at));
            }
            b'{' => depth += 1,
            _ => depth -= 1,
        }
        at += 1;
    }
}

/// Whether the last byte before a place is one that comes between two events, and the bracket there opens an object with keys.
fn follows_an_event(text: &[u8], start: usize, at: usize) -> bool {
    let before = text.get(start..at).unwrap_or_default().trim_ascii_end();
    let opens = matches!(text.get(skip_blank(text, at + 1)), Some(b'"' | b'}'));
    opens && (before.ends_with(b",") || before.ends_with(b"}"))
}

/// The end of what stands before a place, without the comma between.
fn before_comma(text: &[u8], start: usize, at: usize) -> usize {
    let before = text.get(start..at).unwrap_or_default().trim_ascii_end();
    let before = before.strip_suffix(b",").unwrap_or(before);
    start + before.trim_ascii_end().len()
}

/// Where the list goes on after something that does not belong there: at a comma before an object, or at the end of the list.
fn after_event(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        at += memchr::memchr2(b',', b']', text.get(at..)?)?;
        let next = text.get(skip_blank(text, at + 1));
        let goes_on = match text.get(at)? {
            b',' => next == Some(&b'{'),
            _ => matches!(next, None | Some(b'}' | b',')),
        };
        if goes_on {
            return Some(at);
        }
        at += 1;
    }
}

/// The last bracket of a text that ends the list and what is around it, where an event before it cannot be delimited.
fn list_end(text: &[u8], start: usize, around: Around) -> Option<usize> {
    let rest = text.get(start..)?;
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

/// Where the line of a broken event outside of any list ends: before the next line that begins as an event does.
fn line_end(text: &[u8], start: usize) -> Option<usize> {
    let rest = text.get(start..)?;
    let found = memchr::memchr_iter(b'\n', rest).find(|newline| {
        matches!(
            text.get(skip_blank(text, start + newline)),
            Some(b'{' | b'[')
        )
    });
    found.map(|newline| start + newline)
}

/// Where the string at a place ends, after its quote.
fn string_end(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        match text.get(at)? {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn skip_blank(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| is_blank(**byte)).count()
}
