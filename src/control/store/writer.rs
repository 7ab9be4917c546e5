//! The thread that writes.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use redb::Database;
use tokio::sync::oneshot;

use super::records::{RECORDS, Write};

/// Commits that become one transaction at most.
const GROUP: usize = 256;

/// Why records could not be written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database has refused; what is on the disk is one of: all of these records, or none of them.
    #[error("{}", failed(.0))]
    Failed(Arc<redb::Error>),
    /// The thread has ended.
    #[error("the store is closed")]
    Closed,
}

/// What has failed, and what to do where nothing will succeed until the store is opened again.
fn failed(error: &redb::Error) -> String {
    if let redb::Error::PreviousIo = error {
        return "the store cannot be written since its disk has failed; see to that, and start the switch again"
            .to_owned();
    }
    format!("the store cannot be written: {error}")
}

type Answer = oneshot::Sender<Result<(), StoreError>>;

/// The store, open. Dropping it waits for the thread and closes the file.
#[derive(Debug)]
pub struct Store {
    commits: Option<Sender<(Vec<Write>, Answer)>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Starts the thread. Errors: it cannot be started.
    pub fn start(database: Database) -> io::Result<Self> {
        let (commits, waiting) = channel();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || run(&database, &waiting))?;
        Ok(Self {
            commits: Some(commits),
            thread: Some(thread),
        })
    }

    /// Writes records, all or none, and returns when they are on the disk. Commits are written in the order of the calls.
    /// Errors: the database's; `Closed`.
    pub async fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let (answer, wait) = oneshot::channel();
        let sender = self.commits.as_ref().ok_or(StoreError::Closed)?;
        sender
            .send((writes, answer))
            .map_err(|_| StoreError::Closed)?;
        wait.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.commits = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been told by itself.
            let _ = thread.join();
        }
    }
}

fn run(database: &Database, waiting: &Receiver<(Vec<Write>, Answer)>) {
    while let Ok(first) = waiting.recv() {
        let mut group = vec![first];
        group.extend(waiting.try_iter().take(GROUP - 1));
        let writes = group.iter().flat_map(|(writes, _)| writes);
        let result = transact(database, writes).map_err(|e| StoreError::Failed(Arc::new(e)));
        for (_, answer) in group {
            // Whoever asked may have gone.
            let _ = answer.send(result.clone());
        }
    }
}

fn transact<'a>(
    database: &Database,
    writes: impl Iterator<Item = &'a Write>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        for write in writes {
            let key = write.key.to_string();
            match &write.value {
                Some(value) => records.insert(key.as_str(), value.as_slice())?,
                None => records.remove(key.as_str())?,
            };
        }
    }
    transaction.commit()?;
    Ok(())
}
