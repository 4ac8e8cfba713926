//! What the ledger says: numbers, batches, and what is still there as rows.

use controlplane::clickhouse::insert::{Hex16, UsageRow};
use controlplane::clickhouse::ledger::BatchId;
use controlplane::clickhouse::verify::Limit;
use wire::id::{BootId, NodeId};
use wire::report::{Ended, Numbers, Report};

use super::support::{Random, batch, day_ago, start, store};

fn rows(spool: u64, number: u64, boot: u64, numbers: &[u64]) -> Vec<UsageRow<'static>> {
    let rows = batch(&mut Random(3), spool, number, day_ago(2), 24, numbers.len() as u64);
    let with = |(row, seq): (UsageRow<'static>, &u64)| UsageRow { boot: Hex16::new(boot), seq: *seq, ..row };
    rows.into_iter().zip(numbers).map(with).collect()
}

#[tokio::test]
async fn gaps_and_doubles_are_found_by_number_also_after_retention_and_erasure() {
    // An engine of its own: the whole ledger is looked at.
    let shared = start();
    let client = shared.endpoint.client();
    let worker_one = 1 << 48;
    for (spool, number, boot, numbers) in [
        (1, 1, 1, vec![1, 2, 3, worker_one + 1]),
        (1, 2, 1, vec![6, 5, 9, 8]),
        (1, 4, 1, vec![worker_one + 2, worker_one + 3]),
        // By the next process, which found one of them anew.
        (2, 1, 1, vec![9, 10]),
    ] {
        store(&client, &format!("{spool}:{number}"), &rows(spool, number, boot, &numbers)).await.unwrap();
    }
    let id = BatchId { spool: Hex16::new(1), batch: 2, node: Hex16::new(1) };
    client.record_refused(id, (20_000, 2), vec![(Hex16::new(1), 7)]).await.unwrap();

    let check = async |when: &str| {
        let found = client.ledger_numbers(&[]).await.unwrap();
        let seen: Vec<_> =
            found.iter().map(|one| (one.worker, one.last, one.stored, one.refused, one.doubled)).collect();
        assert_eq!(seen, [(0, 10, 8, 1, 1), (1, 3, 3, 0, 0)], "{when}");
        assert_eq!(found[0].gaps, [(4, 4)], "{when}");
        assert_eq!(found[0].doubles, [(9, 9)], "{when}");
        let spools = client.ledger_spools().await.unwrap();
        let seen: Vec<_> = spools
            .iter()
            .map(|one| (one.batches, one.last, one.stored, one.refused, one.unnumbered))
            .collect();
        assert_eq!(seen, [(3, 4, 10, 2, 1), (1, 1, 2, 0, 0)], "{when}");
        assert_eq!(spools[0].missing, [3], "{when}");
        client.held().await.unwrap()
    };
    let held = check("at first").await;
    assert_eq!((held.rows, held.gone, held.surplus), (12, 0, 0));

    // Numbers that were given out after the report do not count.
    let limit = Limit { boot: BootId(1), worker: 0, last: 6 };
    let limited = client.ledger_numbers(&[limit]).await.unwrap();
    assert_eq!((limited[0].last, limited[0].stored, limited[0].doubled), (6, 5, 0));
    assert_eq!((limited[1].stored, limited[1].newer), (3, 0));
    // 8, 9, 9 and 10.
    assert_eq!((limited[0].newer, limited[0].gaps.as_slice()), (4, &[(4, 4)][..]));
    // A limit below everything that is there.
    let limit = Limit { boot: BootId(1), worker: 1, last: 0 };
    let limited = client.ledger_numbers(&[limit]).await.unwrap();
    assert_eq!((limited[1].last, limited[1].stored, limited[1].newer), (0, 0, 3));
    assert_eq!(limited[1].gaps, []);

    let erase = "ALTER TABLE liutong.usage_events DELETE WHERE seq = 2 SETTINGS mutations_sync = 2";
    client.execute(erase).await.unwrap();
    assert_eq!(check("erased").await.gone, 1);
    client.execute("TRUNCATE TABLE liutong.usage_events").await.unwrap();
    assert_eq!(check("expired").await.gone, 12);

    // The same events under another token, as nobody of us does: more rows than the ledger has.
    store(&client, "theirs", &rows(3, 1, 3, &[1])).await.unwrap();
    client
        .execute("ALTER TABLE liutong.usage_events MODIFY SETTING non_replicated_deduplication_window = 0")
        .await
        .unwrap();
    client.execute("INSERT INTO liutong.usage_events SELECT * FROM liutong.usage_events").await.unwrap();
    let held = client.held().await.unwrap();
    assert_eq!((held.surplus, held.surplus_batches.len()), (1, 1));
}

#[tokio::test]
async fn what_ended_stays_ended() {
    let shared = start();
    let client = shared.endpoint.client();
    let report = |at_ms, ended, last| Report {
        at_ms,
        boots: vec![Numbers { boot: BootId(7), ended, workers: vec![(last, last)] }],
        ..Report::default()
    };
    for (at_ms, ended, last) in [(10, Ended::Runs, 5), (20, Ended::Killed, 9), (20, Ended::Runs, 6)] {
        client.record_boots(NodeId(1), &report(at_ms, ended, last)).await.unwrap();
    }
    let boots = client.boots().await.unwrap();
    assert_eq!(boots.len(), 1);
    assert_eq!((boots[0].ended, boots[0].admitted.as_slice()), (Ended::Killed as u8, [9].as_slice()));
}
