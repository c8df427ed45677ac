//! Every request and reply carries `x-request-id`.
//!
//! A caller may bring an id of up to [`REQUEST_ID_BYTES_MAX`] visible ASCII characters; otherwise
//! the server makes one. It stands in the reply's headers and in the span of the request's logs.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderName, HeaderValue, Request, Response};
use tower::{Layer, Service};
use tracing::Instrument;
use uuid::Uuid;

/// The header's name.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The most bytes of an id that a caller brings.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// The id of a request that has passed the layer; an extension of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub String);

/// Gives every request an id.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestIdLayer;

impl<S> Layer<S> for RequestIdLayer {
    type Service = RequestIdService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestIdService { inner }
    }
}

/// The service under [`RequestIdLayer`].
#[derive(Clone, Debug)]
pub struct RequestIdService<S> {
    inner: S,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequestIdService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let id = brought_id(&request).unwrap_or_else(|| Uuid::new_v4().to_string());
        let header = HeaderValue::from_str(&id).ok();
        let span = tracing::debug_span!("request", id = %id, path = request.uri().path());
        request.extensions_mut().insert(RequestId(id));
        let reply = self.inner.call(request);
        Box::pin(
            async move {
                let mut reply = reply.await?;
                if let Some(header) = header {
                    reply.headers_mut().insert(REQUEST_ID_HEADER, header);
                }
                Ok(reply)
            }
            .instrument(span),
        )
    }
}

fn brought_id<B>(request: &Request<B>) -> Option<String> {
    let id = request.headers().get(REQUEST_ID_HEADER)?.to_str().ok()?;
    let fits = !id.is_empty()
        && id.len() <= REQUEST_ID_BYTES_MAX
        && id.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str) -> Request<()> {
        Request::builder()
            .header(REQUEST_ID_HEADER, id)
            .body(())
            .unwrap()
    }

    #[test]
    fn a_fitting_id_is_kept_and_others_are_not() {
        assert_eq!(brought_id(&request("abc-1")), Some("abc-1".into()));
        assert_eq!(brought_id(&request("")), None);
        assert_eq!(brought_id(&request("a b")), None);
        assert_eq!(
            brought_id(&request(&"x".repeat(REQUEST_ID_BYTES_MAX + 1))),
            None
        );
        assert_eq!(brought_id(&Request::new(())), None);
    }
}
