//! Any octets as a line on the control socket: refused in words, or a request that is the same when it
//! is sent again.

use aoe_server::admin::Request;

pub(crate) fn run(octets: &[u8]) {
    match Request::parse(octets) {
        Ok(request) => {
            let line = request.to_json().to_string();
            assert!(!line.contains('\n'), "more than a line: {line}");
            let again = Request::parse(line.as_bytes());
            assert!(again.as_ref().is_ok_and(|again| *again == request), "{request:?}: {again:?}");
        }
        Err(refusal) => assert!(!refusal.message.is_empty()),
    }
}
