//! Finds the members of a request body that decide where it goes and how its answer is metered.
//!
//! The scan goes on with each read, so that a body of many MiB never holds up a worker, and looks at values
//! only once the body is complete. A member that stands twice is refused: the gateway would authorise one
//! model and the upstream might run the other. So is one that is written in another case, which some
//! upstreams take for the same, and a `stream` that some would coerce to `true` and we would not.

use std::fmt;
use std::ops::Range;

use crate::json::text::{TextError, unescape};
use crate::json::{JsonError, Member, MemberScan};

/// The longest model name that is looked up; a longer one is no alias.
pub const MODEL_BYTES_MAX: usize = 256;

const WATCHED: &[&str] = &["model", "stream", "stream_options"];
const MODEL: usize = 0;
const STREAM: usize = 1;
const STREAM_OPTIONS: usize = 2;

const OPTIONS: &[&str] = &["include_usage", "continuous_usage_stats"];

/// Scans a body whole and in pieces, and holds that both ways say the same.
pub fn fuzz(data: &[u8]) {
    for (kind, in_path) in
        [(RequestKind::Streamable, false), (RequestKind::Streamable, true), (RequestKind::Whole, false)]
    {
        let scan = |size: usize| {
            let mut scan = RequestScan::new(kind).with_model_in_path(in_path);
            data.chunks(size).try_for_each(|piece| scan.feed(piece))?;
            scan.finish(data)
        };
        let whole = scan(data.len().max(1));
        for size in [1, 2, 5, 64] {
            assert_eq!(scan(size), whole, "pieces of {size}");
        }
    }
}

/// Why a request body was refused. Offsets count from its first byte; nothing of its content is in here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// It is not one JSON object.
    #[error("request body is not a JSON object (byte {at})")]
    InvalidJson {
        /// Where that shows.
        at: usize,
    },
    /// It nests deeper than [`crate::json::DEPTH_MAX`].
    #[error("request body is nested too deep (byte {at})")]
    TooDeep {
        /// Offset of the bracket.
        at: usize,
    },
    /// Neither it nor the path names a model.
    #[error("request body has no member model")]
    MissingModel,
    /// Its model is not a string.
    #[error("member model is not a string")]
    InvalidModel,
    /// It has a member twice that must be unique.
    #[error("request body has more than one member {0}")]
    DuplicateMember(&'static str),
    /// It has a member whose name differs from one that must be unique only in case.
    #[error("request body has the member {0} in another case")]
    OtherCase(&'static str),
    /// `stream` is neither a boolean nor null.
    #[error("member stream is not a boolean")]
    InvalidStream,
    /// `stream_options` of a streamed request is not an object, or its switches are not booleans.
    #[error("member stream_options is not an object of booleans")]
    InvalidStreamOptions,
}

impl From<JsonError> for ScanError {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::Unexpected { at } | JsonError::Incomplete { at } => Self::InvalidJson { at },
            JsonError::TooDeep { at } => Self::TooDeep { at },
        }
    }
}

/// What kind of endpoint a body is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Chat and text completions: `stream` and `stream_options` mean something.
    Streamable,
    /// Embeddings and the like: only `model` is looked at, the rest is the upstream's to judge.
    Whole,
}

/// The name that a client gave for the model. Its `Debug` form does not show it: it is free text.
#[derive(Clone, PartialEq, Eq)]
enum ModelName {
    /// It means what stands in the body.
    Plain,
    /// What its escapes mean; empty if that is longer than [`MODEL_BYTES_MAX`].
    Unescaped(Box<str>),
    /// The path alone names it.
    InPath,
}

impl ModelName {
    /// Reads the inside of a JSON string.
    fn parse(raw: &[u8]) -> Result<Self, ScanError> {
        let plain = raw.len() <= MODEL_BYTES_MAX && !raw.iter().any(|&byte| byte == b'\\' || byte < 0x20);
        if plain && std::str::from_utf8(raw).is_ok() {
            return Ok(Self::Plain);
        }
        let mut name = [0; MODEL_BYTES_MAX];
        let name = match unescape(raw, &mut name) {
            Ok(len) => std::str::from_utf8(&name[..len]).map_err(|_| ScanError::InvalidModel)?,
            Err(TextError::TooLong) => "",
            Err(TextError::Malformed) => return Err(ScanError::InvalidModel),
        };
        Ok(Self::Unescaped(name.into()))
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelName")
    }
}

/// A boolean member: where its value is, and what it says. Null says `false`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The value's bytes.
    pub value: Range<usize>,
    /// What it says.
    pub on: bool,
}

/// The member `stream_options` of a streamed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// The value's bytes.
    pub value: Range<usize>,
    /// Whether it is null instead of an object.
    pub is_null: bool,
    /// Whether it is an object with members.
    pub has_members: bool,
    /// Its member `include_usage`.
    pub include_usage: Option<Switch>,
    /// Its member `continuous_usage_stats`.
    pub continuous_usage_stats: Option<Switch>,
}

/// What a complete body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedRequest {
    name: ModelName,
    /// The bytes of the model's value, with its quotes; where there is no such member none, behind the
    /// opening brace.
    pub model_value: Range<usize>,
    /// Whether there is any member.
    pub has_members: bool,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// `stream_options`; looked at only where the answer is streamed.
    pub stream_options: Option<StreamOptions>,
    /// Offset of the body's closing brace.
    pub object_end: usize,
}

impl ScannedRequest {
    /// The model that the body asks for, if it names one; `body` is what was scanned. Empty if the name was
    /// longer than [`MODEL_BYTES_MAX`], which is no alias either.
    #[must_use]
    pub fn model<'a>(&'a self, body: &'a [u8]) -> Option<&'a str> {
        match &self.name {
            ModelName::Unescaped(name) => Some(name),
            // `parse` let only UTF-8 in.
            ModelName::Plain => text_inside(body, &self.model_value)
                .and_then(|name| std::str::from_utf8(name).ok())
                .or(Some("")),
            ModelName::InPath => None,
        }
    }

    /// Whether the body names a model.
    #[must_use]
    pub fn names_model(&self) -> bool {
        self.name != ModelName::InPath
    }

    /// Whether the client itself asked for the usage event of a stream.
    #[must_use]
    pub fn asks_usage(&self) -> bool {
        self.switch(|options| options.include_usage.as_ref())
    }

    /// Whether the client itself asked for usage with every event of a stream.
    #[must_use]
    pub fn asks_continuous(&self) -> bool {
        self.asks_usage() && self.switch(|options| options.continuous_usage_stats.as_ref())
    }

    fn switch(&self, which: impl Fn(&StreamOptions) -> Option<&Switch>) -> bool {
        self.stream_options.as_ref().and_then(which).is_some_and(|switch| switch.on)
    }
}

/// The scan of one request body.
#[derive(Debug)]
pub struct RequestScan {
    scan: MemberScan,
    model_in_path: bool,
    values: [Option<Range<usize>>; WATCHED.len()],
}

impl RequestScan {
    /// Starts the scan of a body.
    #[must_use]
    pub fn new(kind: RequestKind) -> Self {
        let watched = match kind {
            RequestKind::Streamable => WATCHED,
            RequestKind::Whole => &WATCHED[..=MODEL],
        };
        let values = [const { None }; WATCHED.len()];
        Self { scan: MemberScan::in_any_case(watched), model_in_path: false, values }
    }

    /// Whether the path names the model: then the body need not, and may say null.
    #[must_use]
    pub fn with_model_in_path(self, model_in_path: bool) -> Self {
        Self { model_in_path, ..self }
    }

    /// Scans the bytes of the next read.
    ///
    /// # Errors
    /// The body cannot become a good one any more.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), ScanError> {
        let (values, mut ambiguous) = (&mut self.values, None);
        let fed = self.scan.feed(piece, |member| take(member, WATCHED, values, &mut ambiguous));
        // It stood before whatever else is wrong with this piece, and might have come in one of its own.
        ambiguous.map_or(Ok(()), Err)?;
        Ok(fed?)
    }

    /// Ends the scan; `body` is all that was fed.
    ///
    /// # Errors
    /// The body is incomplete, or its members are not what they must be.
    pub fn finish(&mut self, body: &[u8]) -> Result<ScannedRequest, ScanError> {
        let end = self.scan.finish()?;
        let (name, model_value) = self.model(body)?;
        let stream = self.values[STREAM]
            .take()
            .map_or(Ok(false), |value| boolean(&body[value]).ok_or(ScanError::InvalidStream))?;
        let options = self.values[STREAM_OPTIONS].take().filter(|_| stream);
        let stream_options = options.map(|value| scan_options(body, value)).transpose()?;
        let (has_members, object_end) = (end.has_members, end.at);
        Ok(ScannedRequest { name, model_value, has_members, stream, stream_options, object_end })
    }

    fn model(&mut self, body: &[u8]) -> Result<(ModelName, Range<usize>), ScanError> {
        match self.values[MODEL].take() {
            Some(value) if self.model_in_path && &body[value.clone()] == b"null" => {
                Ok((ModelName::InPath, value))
            }
            Some(value) => {
                let name = text_inside(body, &value).ok_or(ScanError::InvalidModel)?;
                Ok((ModelName::parse(name)?, value))
            }
            None if self.model_in_path => {
                let inside = body.iter().position(|&byte| byte == b'{').map_or(0, |brace| brace + 1);
                Ok((ModelName::InPath, inside..inside))
            }
            None => Err(ScanError::MissingModel),
        }
    }
}

/// Keeps a member's value in `values`; the first one that must not be there stays in `ambiguous`.
fn take(
    member: Member,
    names: &[&'static str],
    values: &mut [Option<Range<usize>>],
    ambiguous: &mut Option<ScanError>,
) {
    let name = names[member.name];
    if member.other_case {
        ambiguous.get_or_insert(ScanError::OtherCase(name));
    } else if values[member.name].replace(member.value).is_some() {
        ambiguous.get_or_insert(ScanError::DuplicateMember(name));
    }
}

/// The inside of a string value; `None` if it is another value.
fn text_inside<'a>(body: &'a [u8], value: &Range<usize>) -> Option<&'a [u8]> {
    body.get(value.clone())?.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

fn boolean(value: &[u8]) -> Option<bool> {
    match value {
        b"true" => Some(true),
        b"false" | b"null" => Some(false),
        _ => None,
    }
}

fn scan_options(body: &[u8], value: Range<usize>) -> Result<StreamOptions, ScanError> {
    let mut options = StreamOptions {
        is_null: &body[value.clone()] == b"null",
        value: value.clone(),
        has_members: false,
        include_usage: None,
        continuous_usage_stats: None,
    };
    if options.is_null {
        return Ok(options);
    }
    let mut scan = MemberScan::in_any_case(OPTIONS);
    let mut found: [Option<Range<usize>>; OPTIONS.len()] = [const { None }; OPTIONS.len()];
    let mut ambiguous = None;
    let fed = scan.feed(&body[value.clone()], |mut member| {
        member.value = value.start + member.value.start..value.start + member.value.end;
        take(member, OPTIONS, &mut found, &mut ambiguous);
    });
    let end = fed.and_then(|()| scan.finish()).map_err(|_| ScanError::InvalidStreamOptions)?;
    ambiguous.map_or(Ok(()), Err)?;
    let mut switch = |name: usize| {
        let parse = |value: Range<usize>| Some(Switch { on: boolean(&body[value.clone()])?, value });
        found[name].take().map(|value| parse(value).ok_or(ScanError::InvalidStreamOptions)).transpose()
    };
    options.include_usage = switch(0)?;
    options.continuous_usage_stats = switch(1)?;
    options.has_members = end.has_members;
    Ok(options)
}

#[cfg(test)]
mod tests;
