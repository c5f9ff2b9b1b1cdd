//! The service of one connection: checks that each request passes before it is routed.

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
use super::connection_state::ConnectionState;
use super::path::{self, Routed};
use super::public_limits::PublicLimits;
use super::request_body::RequestBody;
use crate::error::ErrorCode;

/// Responds to the requests of a connection.
pub struct Service {
    pub router: Router,
    pub public_limits: Arc<PublicLimits>,
    pub state: Arc<ConnectionState>,
    pub peer: Peer,
}

type ResponseFuture =
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

impl HyperService<Request<Incoming>> for Service {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn call(&self, request: Request<Incoming>) -> ResponseFuture {
        let base = &self.public_limits.config().base_path;
        let routed = path::route(request.uri(), request.method(), base);
        let is_ingest = *request.method() == Method::POST
            && matches!(&routed, Routed::To(uri) if self.public_limits.is_ingest_path(uri.path()));
        self.state.begin(is_ingest);
        let (router, public_limits) = (self.router.clone(), self.public_limits.clone());
        let (state, peer) = (self.state.clone(), self.peer.clone());
        let passed_on = PassedOn(state.clone());
        Box::pin(async move {
            let response = respond(router, &public_limits, &state, &peer, routed, request).await;
            if let Some(code) = response.extensions().get::<ErrorCode>() {
                public_limits.count_error(*code);
            }
            Ok(response.map(|body| ResponseBody {
                body,
                _passed_on: passed_on,
            }))
        })
    }
}

async fn respond(
    router: Router,
    public_limits: &PublicLimits,
    state: &Arc<ConnectionState>,
    peer: &Peer,
    routed: Routed,
    request: Request<Incoming>,
) -> Response {
    let (mut head, body) = request.into_parts();
    if let Err(rejection) = caller::check_head(&head) {
        let mut response = rejection.into_response();
        // A proxy that parses this head differently may also see another start of the next one.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        return response;
    }
    head.uri = match routed {
        Routed::To(uri) => uri,
        Routed::Redirect(to) => return Redirect::temporary(&to).into_response(),
    };
    let caller = public_limits.caller(peer, &head);
    let has_key = auth::has_key(&head.headers);
    if has_key && let Err(rejection) = caller.check_key_attempts() {
        return rejection.into_response();
    }
    head.extensions.insert(caller.clone());
    let body = RequestBody {
        body,
        quota: caller.body_quota(),
        state: state.clone(),
    };
    let request = Request::from_parts(head, body);
    let Ok(response) = TowerToHyperService::new(router).call(request).await;
    if has_key && response.status() == StatusCode::UNAUTHORIZED {
        caller.count_wrong_key();
    }
    response
}

/// The body of a response, which notes in the state of its connection when it was passed on.
pub struct ResponseBody {
    body: Body,
    _passed_on: PassedOn,
}

struct PassedOn(Arc<ConnectionState>);

impl Drop for PassedOn {
    fn drop(&mut self) {
        self.0.set_passed_on();
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
