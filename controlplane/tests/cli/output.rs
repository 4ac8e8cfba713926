//! What stands on stdout in each form, and the exit status of each kind of failure.

use super::*;

#[test]
fn json_of_one_thing_is_the_apis_object_with_its_members_in_order() {
    let api = Api::start(&[(200, created_key())]);
    let output = api.run(&["key", "create", "--application", "demo", "-o", "json"]);
    let text = stdout(&output);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), created_key());
    let at = |name: &str| text.find(&format!("\"{name}\"")).unwrap();
    assert!(at("id") < at("prefix") && at("prefix") < at("secret") && at("secret") < at("status"), "{text}");
    let asked = api.asked().remove(0);
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/admin/v1/keys"));
    assert_eq!(asked.body, json!({"application": "demo"}));
    assert_eq!(asked.authorization, format!("Bearer {KEY}"));
}

#[test]
fn json_of_a_list_is_an_array_of_all_its_pages() {
    let first = json!({"object": "list", "data": [{"id": "t1"}, {"id": "t2"}], "has_more": true});
    let api = Api::start(&[(200, first), (200, list(json!([{"id": "t3"}])))]);
    let output = api.run(&["-o", "json", "team", "list", "--organization", "a b"]);
    assert_eq!(stdout_json(&output), json!([{"id": "t1"}, {"id": "t2"}, {"id": "t3"}]));
    let paths: Vec<String> = api.asked().into_iter().map(|asked| asked.path).collect();
    let base = "/admin/v1/teams?organization=a+b";
    assert_eq!(paths, [base.to_owned(), format!("{base}&after=t2")]);
}

#[test]
fn a_list_that_does_not_end_is_an_error_and_no_endless_loop() {
    let page = json!({"object": "list", "data": [{"id": "t1"}], "has_more": true});
    let api = Api::start(&[(200, page.clone()), (200, page)]);
    assert_eq!(api.run(&["team", "list"]).status.code(), Some(1));
}

#[test]
fn tables_and_csv_show_names_and_tokens() {
    let rows = json!([
        {"team": "research", "model": "small", "requests": 3, "prompt_tokens": 10, "completion_tokens": 5},
        {"team": "ops, eu", "model": "large", "requests": 1, "prompt_tokens": 2, "completion_tokens": null},
    ]);
    let more = json!({"object": "list", "data": rows, "has_more": true});
    let api = Api::start(&[(200, list(rows)), (200, more)]);
    let args =
        ["usage", "--by", "team,model", "--from", "2026-11-01", "--interval", "day", "--model", "small"];
    let table = stdout(&api.run(&args));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].contains("team") && lines[0].contains("prompt_tokens"), "{table}");
    assert!(lines[1].contains("research") && lines[2].contains("ops, eu"), "{table}");
    // A report is not read page by page: what is missing is said.
    let output = api.run(&[&args[..], &["-o", "csv"]].concat());
    assert!(stderr(&output).contains("more rows"), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "team,model,requests,prompt_tokens,completion_tokens\nresearch,small,3,10,5\n\"ops, eu\",large,1,2,\n"
    );
    assert_eq!(
        api.asked()[0].path,
        "/admin/v1/usage?interval=day&group_by=team%2Cmodel&from=2026-11-01T00%3A00%3A00Z&model=small"
    );
}

#[test]
fn the_exit_status_says_what_kind_of_failure_it_was() {
    for (status, code) in
        [(400, 1), (401, 4), (403, 4), (404, 3), (409, 5), (412, 5), (422, 1), (500, 1), (502, 6), (503, 6)]
    {
        let problem =
            json!({"type": "about:blank", "title": "no luck", "status": status, "detail": "team x"});
        let api = Api::start(&[(status, problem)]);
        let output = api.run(&["team", "show", "x"]);
        assert_eq!(output.status.code(), Some(code), "{status}");
        assert!(output.stdout.is_empty(), "{status}");
        let said = stderr(&output);
        assert!(said.contains("showing team x") && said.contains("no luck: team x"), "{said}");
    }
}

#[test]
fn usage_errors_missing_keys_and_absent_servers_have_their_own_exit_status() {
    let code = |command: &mut Command| command.output().unwrap().status.code();
    assert_eq!(code(&mut liutong(&["team", "create"])), Some(2));
    assert_eq!(code(&mut liutong(&["key", "create", "--application", "a", "--expires-at", "soon"])), Some(2));
    let mut with_path = liutong(&["team", "list", "--admin-url", "http://127.0.0.1:1/admin"]);
    assert_eq!(code(with_path.env("LIUTONG_ADMIN_KEY", KEY)), Some(2));
    assert_eq!(code(&mut liutong(&["model", "set", "a"])), Some(2));
    assert_eq!(code(&mut liutong(&["quickstart", "-o", "csv"])), Some(2));
    assert_eq!(code(&mut liutong(&["quickstart", "--upstream", "http://h/v1"])), Some(2));
    assert_eq!(code(&mut liutong(&["team", "list"])), Some(4));
    assert_eq!(code(liutong(&["team", "list"]).env("LIUTONG_ADMIN_KEY", "two words")), Some(4));
    assert_eq!(code(liutong(&["team", "list"]).env("LIUTONG_ADMIN_KEY_FILE", "/absent")), Some(3));
    let mut absent = liutong(&["team", "list", "--admin-url", "http://127.0.0.1:1"]);
    let output = absent.env("LIUTONG_ADMIN_KEY", KEY).output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(stderr(&output).contains("http://127.0.0.1:1"), "{}", stderr(&output));
}

#[test]
fn json_lines_are_one_line_for_each_row() {
    let api = Api::start(&[(200, list(json!([{"id": "t1"}, {"id": "t2"}]))), (200, created_key())]);
    assert_eq!(stdout(&api.run(&["team", "list", "-o", "jsonl"])), "{\"id\":\"t1\"}\n{\"id\":\"t2\"}\n");
    let one = stdout(&api.run(&["key", "create", "--application", "demo", "-o", "jsonl"]));
    assert_eq!(one.lines().count(), 1, "{one}");
    assert_eq!(serde_json::from_str::<Value>(&one).unwrap(), created_key());
}
