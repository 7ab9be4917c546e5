use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use super::faulty::Disk;
use super::*;
use crate::config::facts::random;
use crate::config::wish::NetworkWish;
use crate::control::diff;
use crate::control::model::{Model, Origin};
use crate::control::plan::{self, Facts};

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn start(database: redb::Database, disk: &Disk) -> Store {
    let disk = disk.clone();
    Store::start(database, move || Ok(open_backend(disk.clone())?.0)).unwrap()
}

fn again(path: &Path) -> impl FnMut() -> Result<redb::Database, OpenError> + Send + 'static {
    let path = path.to_owned();
    move || reopen(&path)
}

/// A model with one network more.
fn grown(model: &Model, n: usize) -> Model {
    let mut next = model.clone();
    let wish = NetworkWish {
        name: format!("n{n}"),
        ..NetworkWish::default()
    };
    plan::create(
        &mut next,
        &Facts::default(),
        &wish,
        Origin::Command,
        &mut Vec::new(),
    )
    .unwrap();
    next
}

/// Models as they follow each other, with removals among them.
fn history() -> Vec<Model> {
    let mut all = vec![Model::default()];
    for n in 0..6 {
        let next = grown(all.last().unwrap(), n);
        all.push(next);
    }
    let mut less = all.last().unwrap().clone();
    plan::remove(&mut less, "n2").unwrap();
    all.push(less);
    all
}

/// Writes the history until the power goes. Gives how many changes were acknowledged.
fn write(disk: &Disk, history: &[Model]) -> usize {
    let Ok((database, model)) = open_backend(disk.clone()) else {
        return 0;
    };
    assert_eq!(model, Model::default());
    let store = start(database, disk);
    let steps = history.windows(2);
    let done = steps.take_while(|pair| {
        let writes = diff::writes(&pair[0], &pair[1]);
        block(store.commit(writes)).is_ok()
    });
    done.count()
}

#[test]
fn what_is_acknowledged_survives_a_death_at_every_write() {
    let history = history();
    let whole = Disk::default();
    assert_eq!(write(&whole, &history), history.len() - 1);
    let (_, model) = open_backend(whole.reborn()).unwrap();
    assert_eq!(&model, history.last().unwrap());
    for tear in [false, true] {
        for at in 1..=whole.count() {
            let disk = Disk::default();
            disk.fail_at(at, tear);
            let acknowledged = write(&disk, &history);
            let reborn = disk.reborn();
            if acknowledged == 0 && redb::StorageBackend::len(&reborn).unwrap() == 0 {
                continue;
            }
            // A store that was never acknowledged whole lies beside its name, and is made anew.
            let Ok((_, model)) = open_backend(reborn) else {
                assert_eq!(acknowledged, 0, "torn at write {at}");
                continue;
            };
            // The change that was under way is there whole, or not at all.
            let next = history.get(acknowledged + 1);
            assert!(
                model == history[acknowledged] || Some(&model) == next,
                "write {at}, tear {tear}: {acknowledged} acknowledged"
            );
        }
    }
}

#[test]
fn commits_that_wait_are_written_together() {
    let disk = Disk::default();
    let (database, _) = open_backend(disk.clone()).unwrap();
    let store = start(database, &disk);
    let mut model = Model::default();
    let mut batches = Vec::new();
    for n in 0..64 {
        let next = grown(&model, n);
        batches.push(diff::writes(&model, &next));
        model = next;
    }
    let before = disk.count();
    block(async {
        let mut commits: Vec<_> = batches
            .into_iter()
            .map(|w| Box::pin(store.commit(w)))
            .collect();
        // Every one is handed over before the first is waited for.
        std::future::poll_fn(|cx| {
            for commit in &mut commits {
                let _ = commit.as_mut().poll(cx);
            }
            std::task::Poll::Ready(())
        })
        .await;
    });
    drop(store);
    let together = disk.count() - before;
    assert_eq!(open_backend(disk.reborn()).unwrap().1, model);
    let alone = Disk::default();
    let (database, _) = open_backend(alone.clone()).unwrap();
    let store = start(database, &alone);
    let before = alone.count();
    let mut model = Model::default();
    for n in 0..64 {
        let next = grown(&model, n);
        block(store.commit(diff::writes(&model, &next))).unwrap();
        model = next;
    }
    drop(store);
    let apart = alone.count() - before;
    assert!(
        together * 4 < apart,
        "{together} writes together, {apart} apart"
    );
}

#[test]
fn after_a_disk_was_full_it_is_written_again_without_what_was_refused() {
    let history = history();
    let step = |n: usize| diff::writes(&history[n], &history[n + 1]);
    let mut refusals = 0;
    for at in 1.. {
        let disk = Disk::default();
        let (database, _) = open_backend(disk.clone()).unwrap();
        let store = start(database, &disk);
        block(store.commit(step(0))).unwrap();
        disk.fail_at(at, false);
        if block(store.commit(step(1))).is_ok() {
            // The write that fails is behind the commit: every one of it has been tried.
            break;
        }
        refusals += 1;
        // Still no room.
        assert!(block(store.commit(step(1))).is_err());
        disk.heal();
        // As if the second network had never been wished for: it comes first now.
        let mut expected = history[1].clone();
        for n in 7..9 {
            let next = grown(&expected, n);
            block(store.commit(diff::writes(&expected, &next))).unwrap();
            expected = next;
        }
        drop(store);
        assert_eq!(
            open_backend(disk.reborn()).unwrap().1,
            expected,
            "write {at}"
        );
    }
    assert!(refusals > 2, "{refusals} writes were refused");
}

#[test]
fn a_store_that_is_gone_is_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.redb");
    drop(open(&path).unwrap());
    assert!(reopen(&path).is_ok());
    fs::remove_file(&path).unwrap();
    assert!(matches!(reopen(&path), Err(OpenError::Io(_))));
    assert!(!path.exists());
}

#[test]
fn a_file_is_kept_and_locked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.redb");
    let (database, model) = open(&path).unwrap();
    assert_eq!(model, Model::default());
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(matches!(open(&path), Err(OpenError::Busy)));
    let next = grown(&model, 1);
    let store = Store::start(database, again(&path)).unwrap();
    block(store.commit(diff::writes(&model, &next))).unwrap();
    drop(store);
    assert_eq!(open(&path).unwrap().1, next);
}

#[test]
fn what_is_torn_or_alien_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.redb");
    let (database, model) = open(&path).unwrap();
    let store = Store::start(database, again(&path)).unwrap();
    let mut next = model.clone();
    for n in 0..20 {
        next = grown(&next, n);
    }
    block(store.commit(diff::writes(&model, &next))).unwrap();
    drop(store);
    let good = fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = open(&path).err();
        assert_eq!(fs::read(&path).unwrap(), bytes, "the file was touched");
        error
    };
    assert!(matches!(refused(b""), Some(OpenError::Torn(_))));
    assert!(matches!(refused(b"[Unit]\n"), Some(OpenError::Foreign)));
    assert!(matches!(refused(&[0; 8192]), Some(OpenError::Foreign)));
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(open(&pipe), Err(OpenError::Foreign)));
    for len in [9, 64, 320, 4095, 4096, good.len() / 2, good.len() - 1] {
        assert!(
            refused(&good[..len]).is_some(),
            "cut to {len} of {}",
            good.len()
        );
    }
    // A byte that changed where something is written is noticed; where nothing is, it harms nobody.
    let mut noticed = 0;
    for at in (0..good.len()).step_by(good.len() / 64) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        fs::write(&path, &bad).unwrap();
        match open(&path) {
            Ok((_, model)) => assert_eq!(model, next, "byte {at}"),
            Err(_) => noticed += 1,
        }
    }
    assert!(noticed > 0);
}

#[test]
fn another_schema_and_another_programs_database_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.redb");
    let (database, _) = open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut about = transaction.open_table(records::ABOUT).unwrap();
        about.insert("schema", "7").unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let bytes = fs::read(&path).unwrap();
    let error = open(&path).unwrap_err();
    assert!(
        matches!(&error, OpenError::Schema(s) if s == "7"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), bytes);
    let other = dir.path().join("other.redb");
    drop(redb::Database::create(&other).unwrap());
    assert!(matches!(open(&other), Err(OpenError::Foreign)));
    let odd = dir.path().join("odd.redb");
    let (database, _) = open(&odd).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut records = transaction.open_table(records::RECORDS).unwrap();
        records.insert("network/1", &b"{}"[..]).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(open(&odd), Err(OpenError::Record(key, _)) if key == "network/1"));
}

#[test]
fn keys_read_back() {
    let all = history();
    let writes = diff::writes(&all[0], all.last().unwrap());
    assert!(!writes.is_empty());
    for write in writes {
        assert_eq!(write.key.to_string().parse(), Ok(write.key));
        assert!(write.value.is_some());
    }
    assert!("network".parse::<Key>().is_err() && "colour/1".parse::<Key>().is_err());
    // Numbers are given out once, also when nothing is left.
    let counters = Arc::new(all.last().unwrap().counters.clone());
    assert_eq!(counters.next[0], 6);
    assert_ne!(random(), random());
}
