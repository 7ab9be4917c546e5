//! The thread that writes.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use redb::Database;
use tokio::sync::oneshot;

use super::open::OpenError;
use super::records::{RECORDS, Write};

/// Commits that become one transaction at most.
const GROUP: usize = 256;

/// Why records could not be written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database has refused; what it holds is what it held before, at the latest when it is written again.
    #[error("the store cannot be written: {0}")]
    Failed(Arc<redb::Error>),
    /// After a failure the store is opened anew, and that has failed.
    #[error("the store cannot be opened again: {0}")]
    Reopen(Arc<OpenError>),
    /// The thread has ended.
    #[error("the store is closed")]
    Closed,
}

type Answer = oneshot::Sender<Result<(), StoreError>>;

/// The store, open. Dropping it waits for the thread and closes the file.
#[derive(Debug)]
pub struct Store {
    commits: Option<Sender<(Vec<Write>, Answer)>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Starts the thread. `reopen` opens the same store again after its disk has failed, since redb writes no more then.
    /// Errors: it cannot be started.
    pub fn start(
        database: Database,
        reopen: impl FnMut() -> Result<Database, OpenError> + Send + 'static,
    ) -> io::Result<Self> {
        let (commits, waiting) = channel();
        let mut writer = Writer {
            database: Some(database),
            doubtful: Vec::new(),
            reopen: Box::new(reopen),
        };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(&waiting))?;
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

type Value = (String, Option<Vec<u8>>);

struct Writer {
    /// None since a failure, until it is opened again.
    database: Option<Database>,
    /// What stood where a failed transaction wrote: whether that one is on the disk is not known.
    doubtful: Vec<Value>,
    reopen: Box<dyn FnMut() -> Result<Database, OpenError> + Send>,
}

impl Writer {
    fn run(&mut self, waiting: &Receiver<(Vec<Write>, Answer)>) {
        while let Ok(first) = waiting.recv() {
            let mut group = vec![first];
            group.extend(waiting.try_iter().take(GROUP - 1));
            let writes = group.iter().flat_map(|(writes, _)| writes);
            let values: Vec<_> = writes
                .map(|w| (w.key.to_string(), w.value.as_deref()))
                .collect();
            let result = self.write(&values);
            for (_, answer) in group {
                // Whoever asked may have gone.
                let _ = answer.send(result.clone());
            }
        }
    }

    fn write(&mut self, values: &[(String, Option<&[u8]>)]) -> Result<(), StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.again()?,
        };
        // The newest first, as several of one group may write to one place.
        let mut before = Vec::with_capacity(values.len());
        let result = transact(&database, values, &mut before);
        if let Err(error) = result {
            before.reverse();
            self.doubtful = before;
            return Err(StoreError::Failed(Arc::new(error)));
        }
        self.database = Some(database);
        Ok(())
    }

    /// Opens the store again, and takes back what was told to have failed.
    fn again(&mut self) -> Result<Database, StoreError> {
        let database = (self.reopen)().map_err(|e| StoreError::Reopen(Arc::new(e)))?;
        let values: Vec<_> = self
            .doubtful
            .iter()
            .map(|(key, value)| (key.clone(), value.as_deref()))
            .collect();
        transact(&database, &values, &mut Vec::new())
            .map_err(|e| StoreError::Failed(Arc::new(e)))?;
        self.doubtful.clear();
        Ok(database)
    }
}

/// Writes all or nothing. `before` gets what stood there.
fn transact(
    database: &Database,
    values: &[(String, Option<&[u8]>)],
    before: &mut Vec<Value>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        for (key, value) in values {
            let old = match value {
                Some(value) => records.insert(key.as_str(), *value)?,
                None => records.remove(key.as_str())?,
            };
            before.push((key.clone(), old.map(|old| old.value().to_vec())));
        }
    }
    transaction.commit()?;
    Ok(())
}
