//! Progress of long work: on stderr, and only where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often it is drawn.
const TICK: Duration = Duration::from_millis(100);

/// A line on the terminal that goes away with the value.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Something takes as long as it takes: says what, and for how long by now.
    pub(super) fn of_waiting(what: &str) -> Self {
        Self::start(ProgressBar::new_spinner(), "{spinner} {msg} ({elapsed})", what)
    }

    /// Bytes are gone through; `bytes` is how many there are, where that is known.
    pub(super) fn of_bytes(what: &str, bytes: Option<u64>) -> Self {
        let (bar, template) = match bytes {
            Some(bytes) => (ProgressBar::new(bytes), "{msg} {wide_bar} {bytes}/{total_bytes} ({eta})"),
            None => (ProgressBar::no_length(), "{spinner} {msg} {bytes} ({elapsed})"),
        };
        Self::start(bar, template, what)
    }

    /// Goes on by so many bytes.
    pub(super) fn advance(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }

    fn start(bar: ProgressBar, template: &str, what: &str) -> Self {
        // Draws nothing unless stderr is a terminal.
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template(template).expect("the template is one"));
        // A name must not move the cursor.
        bar.set_message(what.chars().filter(|c| !c.is_control()).collect::<String>());
        bar.enable_steady_tick(TICK);
        Self(bar)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
