//! Reads what callgrind writes: how many instructions each function, and each source file, took itself.
//!
//! ```text
//! fl=(4) dataplane/src/relay.rs     the file; fi= and fe= change it where code of another file was inlined
//! fn=(9) dataplane::relay::pass     the function; a number alone stands for a name that was told before
//! 120 14                            line 120 took 14 instructions (+2, -3 and * are lines, too)
//! calls=3 77                        of the next line: it is what a call took, and no cost of this function
//! 121 900
//! ```

use std::collections::HashMap;

/// What the names of SHA-256's functions have in them. The processor has instructions for it that valgrind
/// does not know, so that here it is done in software, and counted apart.
pub(crate) const SHA256: &str = "sha2::";

/// Instructions by function and by file, each without those that it called.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    /// All of them.
    pub(crate) total: u64,
    /// By the function whose machine code they are.
    pub(crate) functions: HashMap<String, u64>,
    /// By the file that they were written in: inlined code counts where its source is.
    pub(crate) files: HashMap<String, u64>,
}

impl Profile {
    /// Adds the profile in `text`: another thread's, for example.
    pub(crate) fn add(&mut self, text: &str) {
        let mut names = Names::default();
        let (mut function, mut file) = (String::new(), String::new());
        let mut of_call = false;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                function = names.functions.resolve(name);
            } else if let Some(name) = ["fl=", "fi=", "fe="].iter().find_map(|key| line.strip_prefix(key)) {
                file = readable(&names.files.resolve(name)).to_owned();
            } else if let Some(name) = line.strip_prefix("cfn=") {
                names.functions.resolve(name);
            } else if let Some(name) = ["cfi=", "cfl="].iter().find_map(|key| line.strip_prefix(key)) {
                names.files.resolve(name);
            } else if line.starts_with("calls=") {
                of_call = true;
            } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
                let cost = line.split(' ').nth(1).and_then(|cost| cost.parse().ok()).unwrap_or(0);
                if !std::mem::take(&mut of_call) {
                    self.count(&function, &file, cost);
                }
            }
        }
    }

    fn count(&mut self, function: &str, file: &str, cost: u64) {
        self.total += cost;
        for (table, key) in [(&mut self.functions, function), (&mut self.files, file)] {
            match table.get_mut(key) {
                Some(sum) => *sum += cost,
                None => drop(table.insert(key.to_owned(), cost)),
            }
        }
    }

    /// Adds what another profile has.
    pub(crate) fn merge(&mut self, other: Self) {
        self.total += other.total;
        for (table, more) in [(&mut self.functions, other.functions), (&mut self.files, other.files)] {
            for (name, cost) in more {
                *table.entry(name).or_default() += cost;
            }
        }
    }

    /// The instructions of all functions with `part` in their name.
    pub(crate) fn of_functions(&self, part: &str) -> u64 {
        self.functions.iter().filter(|(name, _)| name.contains(part)).map(|(_, cost)| cost).sum()
    }
}

/// The `count` entries of a table that took the most, the most expensive first.
pub(crate) fn top(table: &HashMap<String, u64>, count: usize) -> Vec<(&str, u64)> {
    let mut all: Vec<_> = table.iter().map(|(name, cost)| (name.as_str(), *cost)).collect();
    all.sort_by_key(|&(name, cost)| (std::cmp::Reverse(cost), name));
    all.truncate(count);
    all
}

/// A source file's name without what is the same on no two machines: from the working directory on, or from
/// the package's or the standard library's name on.
fn readable(file: &str) -> &str {
    let root = env!("CARGO_MANIFEST_DIR").trim_end_matches("bench");
    let after = |mark: &str| file.split_once(mark).map(|(_, rest)| rest);
    let registry = || after("/registry/src/")?.split_once('/').map(|(_, rest)| rest);
    file.strip_prefix(root).or_else(registry).or_else(|| after("/library/")).unwrap_or(file)
}

/// The numbers that stand for names.
#[derive(Default)]
struct Names {
    functions: Known,
    files: Known,
}

#[derive(Default)]
struct Known(HashMap<String, String>);

impl Known {
    /// The name in `(number) name`, or the one that `(number)` stands for.
    fn resolve(&mut self, text: &str) -> String {
        match text.split_once(' ') {
            Some((number, name)) => {
                self.0.insert(number.to_owned(), name.to_owned());
                name.to_owned()
            }
            None => self.0.get(text).map_or(text, String::as_str).to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "# callgrind format\nversion: 1\npositions: line\nevents: Ir\nsummary: 1000\n\n\
        ob=(1) /usr/bin/x\nfl=(1) a.rs\nfn=(1) one\n16 400\nfi=(2) inlined.rs\n+3 5\n* 6\nfe=(1)\n-1 7\n\
        cfi=(2)\ncfn=(2) two\ncalls=3 16\n17 580\n\nfl=(2)\nfn=(2)\n20 2\nfn=(1)\n21 10\n\ntotals: 1000\n";

    #[test]
    fn a_call_is_no_cost_of_its_caller() {
        let mut profile = Profile::default();
        profile.add(PROFILE);
        assert_eq!(profile.total, 430);
        assert_eq!(top(&profile.functions, 9), [("one", 428), ("two", 2)]);
    }

    #[test]
    fn inlined_code_counts_where_it_was_written() {
        let mut profile = Profile::default();
        profile.add(PROFILE);
        assert_eq!(top(&profile.files, 9), [("a.rs", 407), ("inlined.rs", 23)]);
    }

    #[test]
    fn files_are_named_from_where_they_are_known() {
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/src/main.rs");
        for (file, name) in [
            (own, "bench/src/main.rs"),
            ("/h/.cargo/registry/src/index-0123/memchr-2.8.3/src/lib.rs", "memchr-2.8.3/src/lib.rs"),
            ("/rustc/59807616/library/core/src/option.rs", "core/src/option.rs"),
            ("./malloc/malloc.c", "./malloc/malloc.c"),
        ] {
            assert_eq!(readable(file), name);
        }
    }

    #[test]
    fn profiles_of_threads_add_up_though_their_numbers_differ() {
        let mut profile = Profile::default();
        profile.add(PROFILE);
        profile.add("fl=(1) b.rs\nfn=(1) two\n1 40\n");
        assert_eq!(top(&profile.functions, 1), [("one", 428)]);
        assert_eq!(profile.of_functions("two"), 42);
    }
}
