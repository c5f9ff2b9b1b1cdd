//! The service of one connection: what is checked of each request before the routes see it.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::service::Service as HyperService;
use hyper_util::service::TowerToHyperService;

use super::auth;
use super::body::MAX_WIRE_BYTES;
use super::caller::{self, Room};
use super::clients::Client;
use super::door::Door;
use super::path::{self, Routed};
use super::progress::Progress;

/// Answers the requests of a connection.
pub struct Service {
    pub router: Router,
    pub door: Arc<Door>,
    pub progress: Arc<Progress>,
    pub peer: Peer,
}

/// Who is at the other end of a connection.
#[derive(Clone)]
pub struct Peer {
    pub client: Arc<Client>,
    /// Whether it is a proxy whose word is taken for the address of the client.
    pub is_proxy: bool,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

impl HyperService<Request<Incoming>> for Service {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let base = &self.door.config().base_path;
        let routed = path::route(request.uri(), request.method(), base);
        let is_ingest = *request.method() == Method::POST
            && matches!(&routed, Routed::To(uri) if self.door.is_ingest_path(uri.path()));
        self.progress.begin(is_ingest);
        let (router, door) = (self.router.clone(), self.door.clone());
        let (progress, peer) = (self.progress.clone(), self.peer.clone());
        let handed_over = HandedOver(progress.clone());
        Box::pin(async move {
            let response = answer(router, &door, &progress, &peer, routed, request).await;
            Ok(response.map(|body| ResponseBody {
                body,
                _handed_over: handed_over,
            }))
        })
    }
}

async fn answer(
    router: Router,
    door: &Door,
    progress: &Arc<Progress>,
    peer: &Peer,
    routed: Routed,
    request: Request<Incoming>,
) -> Response {
    let (mut head, body) = request.into_parts();
    if let Err(refusal) = caller::check_head(&head) {
        let mut response = refusal.into_response();
        // Who disagrees with us about a head may disagree about where the next one begins.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        return response;
    }
    head.uri = match routed {
        Routed::To(uri) => uri,
        Routed::Redirect(to) => return Redirect::temporary(&to).into_response(),
    };
    let caller = door.caller(peer, &head.headers);
    let has_key = auth::has_key(&head.headers);
    if has_key && let Err(refusal) = caller.check_key_attempts() {
        return refusal.into_response();
    }
    head.extensions.insert(caller.clone());
    let body = RequestBody {
        body,
        room: caller.room(),
        progress: progress.clone(),
    };
    let request = Request::from_parts(head, body);
    let Ok(response) = TowerToHyperService::new(router).call(request).await;
    if has_key && response.status() == StatusCode::UNAUTHORIZED {
        caller.count_wrong_key();
    }
    response
}

/// The body of a request, which takes room of its client as it arrives.
pub struct RequestBody {
    body: Incoming,
    room: Room,
    progress: Arc<Progress>,
}

/// Why a body was not received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// The client sends too much at once.
    TooManyBytes,
    /// It ended before it was whole.
    EndedEarly,
}

impl BodyError {
    /// The reason, if it is one of ours.
    pub fn of(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut error = Some(error);
        while let Some(one) = error {
            if let Some(reason) = one.downcast_ref() {
                return Some(*reason);
            }
            error = one.source();
        }
        None
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyBytes => "the client sends too much at once",
            Self::EndedEarly => "the body ended early",
        })
    }
}

impl StdError for BodyError {}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            // Whatever came before the end was passed on already.
            ready!(self.progress.poll_ended(context));
            return Poll::Ready(Some(Err(BodyError::EndedEarly.into())));
        };
        let Some(frame) = frame else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(|_| BodyError::EndedEarly)?;
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        // What is beyond the limit of a body is thrown away.
        if !self.room.take(bytes, MAX_WIRE_BYTES) {
            return Poll::Ready(Some(Err(BodyError::TooManyBytes.into())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response, which tells its connection when it was handed over.
pub struct ResponseBody {
    body: Body,
    _handed_over: HandedOver,
}

struct HandedOver(Arc<Progress>);

impl Drop for HandedOver {
    fn drop(&mut self) {
        self.0.answered();
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
