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
use super::path::{self, Routed, ToRoot};
use super::public_limits::PublicLimits;
use super::request_body::{MAX_WIRE_BYTES, RequestBody};
use super::sdk;
use crate::error::ErrorCode;
use crate::sdk::content;

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

    fn call(&self, mut request: Request<Incoming>) -> ResponseFuture {
        let config = self.public_limits.config();
        let routed = path::route(request.uri(), request.method(), &config.base_path);
        let routed = sdk::paths::route(routed, config);
        let path = match &routed {
            Routed::To(uri) => uri.path(),
            Routed::Redirect(_) => "",
        };
        let is_foreign = sdk::paths::is_foreign(path, config);
        let to_root = ToRoot::from(request.uri().path(), &config.base_path);
        request.extensions_mut().insert(to_root);
        let is_ingest = *request.method() == Method::POST
            && (is_foreign || self.public_limits.is_ingest_path(path));
        self.state.begin(is_ingest);
        let (router, public_limits) = (self.router.clone(), self.public_limits.clone());
        let (state, peer) = (self.state.clone(), self.peer.clone());
        let passed_on = PassedOn(state.clone());
        Box::pin(async move {
            let request = Arrived {
                request,
                routed,
                is_foreign,
            };
            let response = respond(router, &public_limits, &state, &peer, request).await;
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

/// A request, its target, and whether that is for a client of another product.
struct Arrived {
    request: Request<Incoming>,
    routed: Routed,
    is_foreign: bool,
}

async fn respond(
    router: Router,
    public_limits: &PublicLimits,
    state: &Arc<ConnectionState>,
    peer: &Peer,
    arrived: Arrived,
) -> Response {
    let Arrived {
        request,
        routed,
        is_foreign,
    } = arrived;
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
    // The keys of these clients are in pages, and none of ours.
    let has_key = !is_foreign && auth::has_key(&head.headers);
    if has_key && let Err(rejection) = caller.check_key_attempts() {
        return rejection.into_response();
    }
    head.extensions.insert(caller.clone());
    let body = RequestBody {
        body,
        max_bytes: if is_foreign {
            content::MAX_WIRE_BYTES
        } else {
            MAX_WIRE_BYTES
        },
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
