//! The service of one connection: what is checked of each request before the routes see it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::service::Service as HyperService;
use hyper_util::service::TowerToHyperService;

use super::auth;
use super::caller::{self, Peer};
use super::door::Door;
use super::path::{self, Routed};
use super::progress::Progress;
use super::wire::RequestBody;

/// Answers the requests of a connection.
pub struct Service {
    pub router: Router,
    pub door: Arc<Door>,
    pub progress: Arc<Progress>,
    pub peer: Peer,
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
