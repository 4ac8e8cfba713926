//! The pure parts of the data plane as cases: each a closure that does one piece of work once.
//!
//! criterion times them (`benches/pure.rs`), and callgrind counts their instructions (`liutong-bench
//! instructions`): the very same closures. Making one does the work once and holds that it was done right; a
//! scan that found nothing would be fast.

/// Answers: events, and the usage in them.
mod answers;
/// Request bodies: scan and splice.
mod bodies;
/// Heads: finding, parsing, checking, writing.
mod heads;
/// Keys: form, digest, look-up.
mod keys;
/// Usage events: slots, records, ids.
mod records;
/// Requests and answers as they are on the wire.
pub mod texts;
/// What the planes say to each other.
mod wires;

/// A piece of work that can be made ready.
pub struct Case {
    /// What kind of work it is.
    pub group: &'static str,
    /// Which one.
    pub name: String,
    make: Box<dyn Fn() -> Ready>,
}

/// Work that is ready to be done, again and again.
pub struct Ready {
    /// How many bytes are looked at or written each time.
    pub bytes: usize,
    run: Box<dyn FnMut()>,
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [heads::cases(), keys::cases(), bodies::cases(), answers::cases(), records::cases(), wires::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// Does the work of a case once. It is what callgrind counts, so it is a function of its own, whatever the
/// optimiser thinks.
#[inline(never)]
pub fn measured(ready: &mut Ready) {
    ready.run();
}

/// The name of [`measured`] in a profile.
pub const MEASURED: &str = "pure::measured";

impl Case {
    fn new(group: &'static str, name: impl Into<String>, make: impl Fn() -> Ready + 'static) -> Self {
        Self { group, name: name.into(), make: Box::new(make) }
    }

    /// Makes the work ready.
    ///
    /// # Panics
    /// It does not do what it should.
    pub fn ready(&self) -> Ready {
        (self.make)()
    }
}

impl Ready {
    /// Work on so many bytes.
    pub fn new(bytes: usize, run: impl FnMut() + 'static) -> Self {
        Self { bytes, run: Box::new(run) }
    }

    /// Does the work once.
    #[inline]
    pub fn run(&mut self) {
        (self.run)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_does_its_work_twice_alike_and_no_two_have_the_same_name() {
        let mut names = std::collections::HashSet::new();
        for case in cases() {
            assert!(names.insert((case.group, case.name.clone())), "{} is there twice", case.name);
            let mut ready = case.ready();
            measured(&mut ready);
            measured(&mut ready);
        }
    }
}
