//! Certificates for nodes on other hosts: the first for a token, each next one for the one before.
//!
//! The node's private key never leaves it; what comes is the public half. Whether the sender has the other
//! half shows when the certificate is first used: without it, it is of no use to anybody.

use wire::frame::{Enroll, Frame};

use super::framed::Framed;
use super::{Peer, SessionError, check_identity, refuse};
use crate::publish::Hub;

pub(super) async fn serve(
    framed: &mut Framed,
    enroll: &Enroll,
    peer: &Peer,
    hub: &Hub,
) -> Result<(), SessionError> {
    match certificates(enroll, peer, hub).await {
        Ok(frame) => Ok(framed.writer.write(&frame).await?),
        Err(error) => refuse(framed, error).await,
    }
}

async fn certificates(enroll: &Enroll, peer: &Peer, hub: &Hub) -> Result<Frame, SessionError> {
    const NO_AUTHORITY: &str = "nodes on other hosts are not served: sync.listen is not set";
    const NO_TOKEN: &str = "the token is unknown, used, or too old; `liutong node enroll` makes another";
    let authority = hub.authority().ok_or(SessionError::Refused(NO_AUTHORITY))?;
    let enrolment = if enroll.token.is_empty() {
        check_identity(hub, peer, enroll.node).await?;
        hub.registry().enrolment(enroll.node).await?
    } else {
        hub.registry().enrol(&enroll.token, enroll.node).await?
    };
    let enrolment = enrolment.ok_or(SessionError::Refused(NO_TOKEN))?;
    Ok(Frame::Enrolled(authority.issue(enroll.node, enrolment, &enroll.public_key)?))
}
