//! `liutong man` and `liutong completions`, made from the same definitions as `--help`; and the admin API's
//! own document.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::CliError;
use super::admin::Admin;
use super::args::Cli;
use super::output::print;

/// Prints what a shell needs to complete this command's words.
pub(super) fn completions(shell: Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown(), "liutong", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// The command without what is hidden, which bash would be offered too.
fn shown() -> clap::Command {
    let all = Cli::command();
    let subcommands = all.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned();
    clap::Command::new("liutong").args(all.get_arguments().cloned()).subcommands(subcommands)
}

/// Prints the admin API's OpenAPI document, which is JSON whatever form was asked for.
pub(super) async fn openapi(admin: &Admin) -> Result<(), CliError> {
    let document = admin.get("reading the OpenAPI document".to_owned(), &["openapi.json"], &[]).await?;
    print(&format!("{document:#}\n"))
}

/// Writes a manual page for each command.
pub(super) fn manual(directory: &Path) -> Result<(), CliError> {
    let written =
        std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(Cli::command(), directory));
    written.map_err(|source| CliError::File {
        action: "writing manual pages to",
        path: directory.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use clap::{Command, Parser as _};

    use super::*;

    /// Every command that people see, with the words that lead to it.
    fn walk(command: &Command, path: &str, visit: &mut impl FnMut(&str, &Command)) {
        visit(path, command);
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
            walk(sub, &format!("{path} {}", sub.get_name()), visit);
        }
    }

    /// The command lines of a help's examples: below the line that says so, each of them indented.
    fn examples(help: &str) -> Vec<Vec<String>> {
        let lines = help.lines().skip_while(|line| !line.starts_with("Example")).skip(1);
        let lines = lines.take_while(|line| line.starts_with("  ")).collect::<Vec<_>>().join("\n");
        let joined = lines.replace("\\\n", " ");
        joined.lines().flat_map(commands).collect()
    }

    /// The words of each `liutong` of a line: without variables before it, comments, pipes and redirections.
    fn commands(line: &str) -> Vec<Vec<String>> {
        let words = shlex::split(line).unwrap_or_else(|| panic!("{line}: not a command line"));
        let parts = words.split(|word| word == "|");
        let from_its_name = |part: &[String]| {
            let at = part.iter().position(|word| word == "liutong")?;
            Some(part[at..].iter().take_while(|word| *word != ">").cloned().collect())
        };
        parts.filter_map(from_its_name).collect()
    }

    /// Which command a line runs.
    fn reached(words: &[String]) -> String {
        let matches = Cli::command().try_get_matches_from(words).unwrap_or_else(|error| panic!("{error}"));
        let (mut path, mut at) = ("liutong".to_owned(), &matches);
        while let Some((name, sub)) = at.subcommand() {
            path = format!("{path} {name}");
            at = sub;
        }
        path
    }

    #[test]
    fn every_command_has_an_example_of_itself_that_is_understood() {
        let mut without = Vec::new();
        walk(&Cli::command(), "liutong", &mut |path, command| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = examples(&help);
            for example in &examples {
                if let Err(error) = Cli::try_parse_from(example) {
                    panic!("{path}: {example:?}: {error}");
                }
            }
            let of_itself = || examples.iter().any(|example| reached(example) == path);
            let is_group = command.is_subcommand_required_set();
            if if is_group { path == "liutong" && examples.is_empty() } else { !of_itself() } {
                without.push(path.to_owned());
            }
        });
        assert!(without.is_empty(), "no example: {without:?}");
    }

    /// The commands that read or write files on this machine: only what the admin API changes can be tried.
    const HERE: [&str; 15] = [
        "liutong privacy export",
        "liutong key scan",
        "liutong spool inspect",
        "liutong spool verify",
        "liutong backup",
        "liutong backup list",
        "liutong backup verify",
        "liutong backup prune",
        "liutong restore",
        "liutong doctor",
        "liutong support bundle",
        "liutong profile list",
        "liutong completions",
        "liutong man",
        "liutong quickstart",
    ];

    #[test]
    fn a_command_that_heeds_no_dry_run_refuses_it() {
        let mut wrong = Vec::new();
        walk(&Cli::command(), "liutong", &mut |path, command| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for example in examples(&help).iter().filter(|example| reached(example) == path) {
                let mut dry = example.clone();
                dry.insert(1, "--dry-run".to_owned());
                let refused = super::super::dry_run_is_had(&Cli::try_parse_from(&dry).unwrap());
                let is_usage = refused.as_ref().is_err_and(|error| error.exit_status() == 2);
                if is_usage != HERE.contains(&path) {
                    wrong.push(format!("{path}: {refused:?}"));
                }
                assert!(super::super::dry_run_is_had(&Cli::try_parse_from(example).unwrap()).is_ok());
            }
        });
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    /// Operations whose command is called otherwise, and several that have one command together.
    const OTHERWISE: [(&str, &str); 7] = [
        ("hold.create", "liutong hold add"),
        ("audit.list", "liutong audit tail"),
        ("key.revoke_many", "liutong key revoke"),
        ("key.list_uses", "liutong key uses"),
        ("administrator.rotate_own", "liutong administrator rotate"),
        ("usage.report", "liutong usage"),
        ("openapi.show", "liutong openapi"),
    ];

    #[test]
    fn every_operation_of_the_admin_api_has_a_command() {
        let mut paths = Vec::new();
        walk(&Cli::command(), "liutong", &mut |path, _| paths.push(path.to_owned()));
        let document = crate::admin::document();
        // The shape of OpenAI's organization API is for its SDKs.
        let paths_of_ours = document["paths"].as_object().unwrap().iter();
        let paths_of_ours = paths_of_ours.filter(|(path, _)| path.starts_with("/admin/v1/"));
        let operations = paths_of_ours.flat_map(|(_, path)| path.as_object().unwrap().values());
        let ids: Vec<&str> = operations.map(|operation| operation["operationId"].as_str().unwrap()).collect();
        assert!(ids.len() > 30, "{ids:?}");
        let command = |id: &str| {
            let otherwise = OTHERWISE.iter().find(|one| one.0 == id).map(|one| one.1.to_owned());
            otherwise.unwrap_or_else(|| format!("liutong {}", id.replace('.', " ").replace('_', "-")))
        };
        let without: Vec<&&str> = ids.iter().filter(|id| !paths.contains(&command(id))).collect();
        assert!(without.is_empty(), "operations without a command: {without:?}");
        let gone: Vec<_> = OTHERWISE.iter().filter(|one| !ids.contains(&one.0)).collect();
        assert!(gone.is_empty(), "no such operations any more: {gone:?}");
    }

    #[test]
    fn the_examples_of_a_line_are_found_behind_variables_pipes_and_before_redirections() {
        let line = "A=b liutong key scan 'x y' -o json | liutong key revoke --from - > out";
        let expected = [
            vec!["liutong", "key", "scan", "x y", "-o", "json"],
            vec!["liutong", "key", "revoke", "--from", "-"],
        ];
        assert_eq!(commands(line), expected);
        assert_eq!(examples("Example:\n  liutong a \\\n      b\n\nMore"), [["liutong", "a", "b"]]);
    }

    #[test]
    fn there_is_a_manual_page_for_each_command_and_completions_for_each_shell() {
        let dir = tempfile::tempdir().unwrap();
        manual(dir.path()).unwrap();
        walk(&Cli::command(), "liutong", &mut |path, command| {
            let page = dir.path().join(format!("{}.1", path.replace(' ', "-")));
            let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{page:?}: {error}"));
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let first = about.split([',', ';', ':', '-', '\'']).next().unwrap_or_default();
            assert!(text.replace("\\-", "-").contains(first), "{path}: {first}");
        });
        use clap::ValueEnum as _;
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut shown(), "liutong", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("cut-streams") && !script.contains("clickhouse-engine"), "{shell}");
        }
    }
}
