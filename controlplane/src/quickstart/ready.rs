//! Waiting for a child to be ready: it answers 200, or it is said why not.

use std::time::{Duration, Instant};

use super::QuickstartError;
use super::supervisor::Child;

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits until `url` answers 200, and gives the time it took. Fails where the child exits, or the deadline
/// passes.
pub(super) async fn wait(child: &mut Child, url: &str) -> Result<Duration, QuickstartError> {
    wait_until(child, url, DEADLINE).await
}

async fn wait_until(child: &mut Child, url: &str, deadline: Duration) -> Result<Duration, QuickstartError> {
    let begun = Instant::now();
    let title = child.title();
    let outcome = tokio::select! {
        () = answers(url) => return Ok(begun.elapsed()),
        status = child.exited() => Some(status),
        () = tokio::time::sleep(deadline) => None,
    };
    let tail = child.log_tail();
    Err(match outcome {
        Some(status) => QuickstartError::EndedEarly { title, status, tail },
        None => QuickstartError::NotReady { title, seconds: deadline.as_secs(), tail },
    })
}

async fn answers(url: &str) {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build().unwrap_or_default();
    loop {
        if let Ok(answer) = client.get(url).send().await
            && answer.status() == reqwest::StatusCode::OK
        {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::supervisor::tests::{Sandbox, shell};
    use super::*;

    #[tokio::test]
    async fn an_early_exit_is_told_with_the_end_of_the_log() {
        let sandbox = Sandbox::new();
        let program = shell("dataplane", "echo no ring for you >&2; exit 7", &sandbox);
        let mut child = Child::start(program, sandbox.pids.clone()).unwrap();
        let error = wait(&mut child, "http://127.0.0.1:1/").await.unwrap_err().to_string();
        assert!(error.contains("exit status: 7") && error.contains("no ring for you"), "{error}");
        child.kill().await;
    }

    #[tokio::test]
    async fn a_child_that_never_answers_is_given_up_at_the_deadline() {
        let sandbox = Sandbox::new();
        let program = shell("dataplane", "read line; :", &sandbox);
        let mut child = Child::start(program, sandbox.pids.clone()).unwrap();
        let waited = wait_until(&mut child, "http://127.0.0.1:1/", Duration::from_millis(50)).await;
        assert!(matches!(waited, Err(QuickstartError::NotReady { .. })));
        child.kill().await;
    }
}
