//! The one doorway to the kernel: a route netlink socket (rtnetlink(7)) on a private tokio
//! runtime, shown to callers as a blocking handle because their programs are not asynchronous.
//!
//! Everything passes through [`NetSetup::call`]: it sends one request, gathers its answers,
//! starts a dump again that a change interrupted, never waits for ever, and turns a refusal into
//! an [`Error`] that carries the kernel's own words (extended acknowledgements) where it has some.
//! What comes back is treated as untrusted: nothing in it can make us panic or hang.

use std::time::Duration;

use futures_util::StreamExt;
use nix::errno::Errno;
use rtnetlink::packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload, NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::AsyncSocket;
use tokio::runtime::Runtime;

use crate::error::{Error, Result};
use crate::netns::NamespaceId;

/// A question with one answer.
pub(crate) const GET: u16 = NLM_F_REQUEST;
/// A question with many answers.
pub(crate) const DUMP: u16 = NLM_F_REQUEST | NLM_F_DUMP;
/// A change to what exists.
pub(crate) const CHANGE: u16 = NLM_F_REQUEST | NLM_F_ACK;
/// The making of what must not exist yet.
pub(crate) const CREATE: u16 = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

/// The kernel answers netlink within the system call; only its global lock makes it wait. Beyond
/// this something is broken (an answer nobody can decode, for one) and waiting on would hang us.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a dump is asked for again when links changed under it.
const DUMP_ATTEMPTS: usize = 10;

/// `NLMSGERR_ATTR_MSG` (`linux/netlink.h`): the text in an extended acknowledgement.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Size of `struct nlmsghdr`, the head of the failed request that an error repeats.
const NLMSGHDR_LEN: usize = 16;

const CLOSED: &str = "the netlink socket closed before the kernel's answer came";

/// Whether an operation had something to do. Every operation may be repeated: the second time
/// it finds things as asked and says `Unchanged`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was made so.
    Changed,
    /// It was so already.
    Unchanged,
}

impl Change {
    /// Changed if either was.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self == Self::Changed { self } else { other }
    }
}

/// A handle to the network configuration of one network namespace: the one the thread that made
/// it was in. It may be sent to and shared with other threads, save that taps are opened in the
/// namespace of the calling thread; a mismatch is an error, never a tap in the wrong place.
///
/// It blocks; inside an asynchronous task every call is an error (and dropping it there is
/// tokio's panic: leave it to a thread that may block).
#[derive(Debug)]
pub struct NetSetup {
    // Before `runtime`: handles close before what drives them.
    handle: rtnetlink::Handle,
    runtime: Runtime,
    namespace: Option<NamespaceId>,
}

impl NetSetup {
    /// Opens a netlink socket in the calling thread's network namespace. Needs no privilege:
    /// looking is free, changes are judged one by one.
    ///
    /// # Errors
    /// No socket or no epoll instance is to be had, or the caller is an asynchronous task.
    pub fn new() -> Result<Self> {
        refuse_in_async(|| "open a netlink socket".to_owned())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::OpenNetlink)?;
        let handle = {
            let _in_runtime = runtime.enter();
            let (mut connection, handle, _unsolicited) =
                rtnetlink::new_connection().map_err(Error::OpenNetlink)?;
            let socket = connection.socket_mut().socket_mut();
            // Errors in words, and without the whole request repeated; dumps filtered by the
            // kernel. Old kernels have none of these (before 4.12, 4.2 and 4.20): then errors are
            // terse, and we filter ourselves.
            if socket.set_ext_ack(true).is_ok() {
                let _ = socket.set_cap_ack(true);
            }
            let _ = socket.set_netlink_get_strict_chk(true);
            // The last word of each exchange is what tells an end from a cut.
            connection.set_forward_ack(true);
            connection.set_forward_done(true);
            runtime.spawn(connection);
            handle
        };
        Ok(Self {
            handle,
            runtime,
            namespace: NamespaceId::of_this_thread(),
        })
    }

    /// Sends one request and gathers its answers. `operation` reads on from "Cannot".
    pub(crate) fn call(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        operation: impl Fn() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        refuse_in_async(&operation)?;
        for _ in 0..DUMP_ATTEMPTS {
            let exchange = exchange(self.handle.clone(), message.clone(), flags);
            let outcome = self
                .runtime
                .block_on(async { tokio::time::timeout(PATIENCE, exchange).await });
            match outcome {
                Ok(Ok(answers)) => return Ok(answers),
                Ok(Err(Failure::Interrupted)) => continue,
                Ok(Err(Failure::Refused(errno, detail))) => {
                    return Err(Error::Refused {
                        operation: operation(),
                        errno,
                        detail,
                    });
                }
                Ok(Err(Failure::Broken(reason))) => return Err(Error::answer(operation(), reason)),
                Err(_elapsed) => {
                    let reason = format!(
                        "the kernel gave no readable answer within {} s",
                        PATIENCE.as_secs()
                    );
                    return Err(Error::answer(operation(), reason));
                }
            }
        }
        Err(Error::answer(
            operation(),
            "the interfaces keep changing while they are listed; try again",
        ))
    }

    /// Guards what happens in the calling thread's namespace rather than in the socket's.
    pub(crate) fn require_same_namespace(&self, operation: impl Fn() -> String) -> Result<()> {
        match (&self.namespace, NamespaceId::of_this_thread()) {
            (Some(ours), Some(now)) if *ours != now => Err(Error::OtherNamespace {
                operation: operation(),
            }),
            // Without /proc nothing can be told, and nobody changes namespaces unawares.
            _ => Ok(()),
        }
    }
}

/// `Runtime::block_on` panics inside a runtime; an error is kinder.
fn refuse_in_async(operation: impl Fn() -> String) -> Result<()> {
    match tokio::runtime::Handle::try_current() {
        Ok(_) => Err(Error::Asynchronous {
            operation: operation(),
        }),
        Err(_) => Ok(()),
    }
}

/// How one exchange fails.
enum Failure {
    Refused(Errno, Option<String>),
    /// The dump is not one consistent picture.
    Interrupted,
    Broken(&'static str),
}

async fn exchange(
    mut handle: rtnetlink::Handle,
    message: RouteNetlinkMessage,
    flags: u16,
) -> Result<Vec<RouteNetlinkMessage>, Failure> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = flags;
    let mut stream = handle
        .request(request)
        .map_err(|_| Failure::Broken(CLOSED))?;
    let mut answers = Vec::new();
    let mut interrupted = false;
    // Each kind of request has its own last word: without it, silence is not success.
    let mut finished = false;
    while let Some(answer) = stream.next().await {
        interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => {
                answers.push(message);
                finished |= flags == GET;
            }
            NetlinkPayload::Error(error) => {
                if error.code.is_some() {
                    let errno = Errno::from_raw(error.raw_code().saturating_abs());
                    return Err(Failure::Refused(errno, kernel_words(&error)));
                }
                finished = true;
            }
            NetlinkPayload::Done(done) => {
                if done.code < 0 {
                    return Err(Failure::Refused(
                        Errno::from_raw(done.code.saturating_abs()),
                        None,
                    ));
                }
                finished = true;
            }
            NetlinkPayload::Overrun(_) if flags == DUMP => return Err(Failure::Interrupted),
            NetlinkPayload::Overrun(_) => {
                return Err(Failure::Broken("the kernel's answer was lost"));
            }
            _ => {}
        }
    }
    if interrupted {
        Err(Failure::Interrupted)
    } else if finished {
        Ok(answers)
    } else {
        Err(Failure::Broken(CLOSED))
    }
}

/// The text of an extended acknowledgement, if the kernel sent one: what follows the repeated
/// header of the request (`NETLINK_CAP_ACK` keeps the request's body out).
fn kernel_words(error: &ErrorMessage) -> Option<String> {
    let attributes = error.header.get(NLMSGHDR_LEN..)?;
    NlasIterator::new(attributes)
        .map_while(|attribute| attribute.ok())
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| {
            let text = String::from_utf8_lossy(attribute.value());
            text.trim_end_matches('\0').replace(char::is_control, " ")
        })
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_with(body: &[u8]) -> ErrorMessage {
        let mut error = ErrorMessage::default();
        error.header = vec![0; NLMSGHDR_LEN];
        error.header.extend_from_slice(body);
        error
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_kernels_words_are_found_among_other_attributes() {
        let body = [
            attribute(2, &[1, 0, 0, 0]),
            attribute(NLMSGERR_ATTR_MSG, b"No such thing\0"),
        ]
        .concat();
        assert_eq!(
            kernel_words(&error_with(&body)).as_deref(),
            Some("No such thing")
        );
    }

    #[test]
    fn a_garbled_error_has_no_words_and_does_no_harm() {
        assert_eq!(kernel_words(&ErrorMessage::default()), None);
        assert_eq!(kernel_words(&error_with(&[])), None);
        assert_eq!(kernel_words(&error_with(&[0xff; 7])), None);
        assert_eq!(kernel_words(&error_with(&[3, 0, 1, 0])), None);
        assert_eq!(
            kernel_words(&error_with(&attribute(NLMSGERR_ATTR_MSG, b"\0"))),
            None
        );
    }

    #[test]
    fn an_asynchronous_caller_gets_an_error_not_a_panic() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let error = runtime.block_on(async { NetSetup::new() }).unwrap_err();
        assert!(matches!(error, Error::Asynchronous { .. }), "{error}");
    }
}
