//! The other side of the API: one request, one answer, on the daemon's socket.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::proto::Failure;
use crate::config::Problem;

/// A daemon to be asked.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The daemon behind a socket. Nothing is opened yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Where its socket is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.socket
    }

    /// Asks for something. Errors: as [`Self::send`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send("GET", path, None::<&()>)
    }

    /// Takes something away. Errors: as [`Self::send`].
    pub fn delete(&self, path: &str) -> Result<()> {
        self.bytes("DELETE", path, None::<&()>).map(drop)
    }

    /// Asks with a body and reads the answer.
    /// Errors: no daemon listens; a [`Problem`] that the daemon answered; an answer that cannot be read.
    pub fn send<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T> {
        let bytes = self.bytes(method, path, body)?;
        serde_json::from_slice(&bytes).context("the daemon's answer: is it of another release?")
    }

    /// Asks, and gives the answer as it came. Errors: no daemon listens; a [`Problem`] that the daemon answered.
    pub fn bytes(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Vec<u8>> {
        let body = body.map(serde_json::to_vec).transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.exchange(method, path, body.unwrap_or_default()))
    }

    async fn exchange(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Vec<u8>> {
        let stream = UnixStream::connect(&self.socket).await.with_context(|| {
            format!(
                "the switch is not up, or not yours, at {}; start it with 'weft up'",
                self.socket.display()
            )
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the exchange; what fails in it fails the request too.
        let driver = tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "weft")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let answer = sender
            .send_request(request)
            .await
            .context("asking the switch")?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes().to_vec();
        drop(sender);
        driver.abort();
        if status.is_success() {
            return Ok(bytes);
        }
        match serde_json::from_slice::<Failure>(&bytes) {
            Ok(failure) => Err(anyhow::Error::new(failure.error)),
            Err(_) => bail!("the switch answered {status}"),
        }
    }
}

/// A name as one step of a path.
#[must_use]
pub fn step(name: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// What the daemon refused, if that is what an error is.
#[must_use]
pub fn refusal(error: &anyhow::Error) -> Option<&Problem> {
    error.downcast_ref()
}

#[test]
fn names_are_one_step() {
    assert_eq!(step("web-1"), "web-1");
    assert_eq!(step("a/b?c é"), "a%2Fb%3Fc%20%C3%A9");
}
