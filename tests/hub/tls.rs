//! The hub as it is out there: encrypted, perhaps behind a company's authority or proxy, perhaps not who it says.

use std::fs;

use rcgen::date_time_ymd;

use crate::common::Server;
use crate::common::authority::Authority;
use crate::common::proxy;
use crate::server::{Content, Hub};
use crate::{MODEL, Machine, bytes, demo, failed, one_gguf, succeeded};

#[test]
fn a_hub_is_trusted_by_the_authority_that_is_named() {
    let (machine, authority) = (Machine::new("tls"), Authority::new());
    let file = authority.file(&machine.home);
    let content = Content { cuts: 1, gate: Some("hf_secret".to_owned()), ..demo() };
    let hub = Hub::encrypted(content, [authority.host("localhost"), authority.host("localhost")]);
    let variables = [("SSL_CERT_FILE", file.as_str()), ("HF_TOKEN", "hf_secret")];
    let (path, said) = succeeded(&machine.run(&hub.url, &["pull", MODEL], &variables));
    assert!(said.contains("the connection was lost after"), "{said}");
    let weights = &demo().files["model.safetensors"];
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), *weights);
    let seen = hub.seen();
    assert!(seen.iter().any(|seen| !seen.to_hub && seen.range.is_some()));
    for seen in seen {
        assert_eq!(seen.authorization.is_some(), seen.to_hub, "{} {}", seen.method, seen.path);
    }
    let environment = [&machine.environment(&hub.url)[..], &variables[..]].concat();
    let server = Server::start_in(&[MODEL], &environment);
    assert!(server.get("/v1/models").1.contains("\"org/name\""));
    server.stop();

    let (other, hub) = (
        Machine::new("tls-damage"),
        Hub::encrypted(one_gguf(), [authority.host("localhost"), authority.host("localhost")]),
    );
    hub.change(|content| content.corrupt = true);
    let said = failed(&other.run(&hub.url, &["pull", MODEL], &variables));
    assert!(said.contains("checksum"), "{said}");
}

#[test]
fn who_is_not_who_it_says_is_asked_nothing_and_told_of_once() {
    let (machine, authority) = (Machine::new("tls-lies"), Authority::new());
    let file = authority.file(&machine.home);
    let old = authority.host_with("localhost", |params| {
        (params.not_before, params.not_after) =
            (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    let early = authority.host_with("localhost", |params| {
        (params.not_before, params.not_after) =
            (date_time_ymd(4000, 1, 1), date_time_ymd(4001, 1, 1));
    });
    let cases = [
        (Authority::new().host("localhost"), "an authority that is not in SSL_CERT_FILE"),
        (authority.host("example.org"), "that of another host"),
        (old, "has expired"),
        (early, "not valid yet"),
    ];
    for (tls, expected) in cases {
        let hub = Hub::encrypted(one_gguf(), [tls, None]);
        let variables = [("SSL_CERT_FILE", file.as_str()), ("HF_TOKEN", "hf_secret")];
        let said = failed(&machine.run(&hub.url, &["pull", MODEL], &variables));
        assert!(said.contains(expected) && said.contains("localhost:"), "{expected}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(hub.seen().is_empty());
    }
    // Nobody has named an authority.
    let hub = Hub::encrypted(one_gguf(), [authority.host("localhost"), None]);
    let said = failed(&machine.run(&hub.url, &["pull", MODEL], &[]));
    assert!(
        said.contains("Mozilla does not trust") && said.contains("set SSL_CERT_FILE"),
        "{said}"
    );
    // What the cache has can be trusted.
    let plain = Hub::start(one_gguf());
    let known = machine.pull(&plain, MODEL).0;
    let (path, said) = succeeded(&machine.run(&hub.url, &["pull", MODEL], &[]));
    assert!(path == known && said.contains("going on with what the cache has"), "{said}");
    // TLS is spoken to one who does not.
    let machine = Machine::new("tls-plain");
    let server = Server::start(&[]);
    let plain = server.url().replace("http://127.0.0.1", "https://localhost");
    let said = failed(&machine.run(&plain, &["pull", MODEL], &[]));
    assert!(said.contains("does not speak TLS"), "{said}");
}

#[test]
fn nobody_is_followed_from_an_encrypted_hub_to_one_that_is_not() {
    let (machine, authority) = (Machine::new("tls-down"), Authority::new());
    let file = authority.file(&machine.home);
    let hub = Hub::encrypted(one_gguf(), [authority.host("localhost"), None]);
    let variables = [("SSL_CERT_FILE", file.as_str()), ("HF_TOKEN", "hf_secret")];
    let said = failed(&machine.run(&hub.url, &["pull", MODEL], &variables));
    assert!(said.contains("from https to http://"), "{said}");
    assert!(hub.seen().iter().all(|seen| seen.to_hub));
}

/// The hub, variables, and whether the proxy is to be asked.
type Case<'a> = (&'a Hub, &'a [(&'a str, &'a str)], bool);

#[test]
fn proxies_are_used_as_their_variables_say() {
    let authority = Authority::new();
    let hub =
        Hub::encrypted(one_gguf(), [authority.host("localhost"), authority.host("localhost")]);
    let plain = Hub::start(one_gguf());
    let (proxy, asked) = proxy::start();
    let proxy = proxy.as_str();
    let cases: [Case<'_>; 7] = [
        (&hub, &[("HTTPS_PROXY", proxy)], true),
        (&hub, &[("https_proxy", proxy), ("HTTPS_PROXY", "http://127.0.0.1:1")], true),
        (&hub, &[("ALL_PROXY", proxy), ("NO_PROXY", "example.org, 10.0.0.1")], true),
        (&hub, &[("HTTPS_PROXY", proxy), ("NO_PROXY", "example.org, localhost")], false),
        (&hub, &[("HTTP_PROXY", proxy)], false),
        (&hub, &[("HTTPS_PROXY", "")], false),
        (&plain, &[("HTTPS_PROXY", proxy)], false),
    ];
    for (number, (hub, variables, through)) in cases.into_iter().enumerate() {
        let machine = Machine::new(&format!("proxy-{number}"));
        let file = authority.file(&machine.home);
        let variables = [&[("NO_PROXY", ""), ("SSL_CERT_FILE", file.as_str())], variables].concat();
        let (path, _) = succeeded(&machine.run(&hub.url, &["pull", MODEL], &variables));
        assert_eq!(fs::read(path).unwrap(), bytes(0), "case {number}");
        let heads: Vec<String> = asked.try_iter().collect();
        assert_eq!(!heads.is_empty(), through, "case {number}: {heads:?}");
        for head in heads {
            assert!(head.starts_with("CONNECT localhost:"), "{head}");
            assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic "), "{head}");
        }
    }
    let machine = Machine::new("proxy-odd");
    for odd in ["socks5://u:secret@localhost:1", "http://u:secret@"] {
        let variables = [("NO_PROXY", ""), ("HTTPS_PROXY", odd)];
        let said = failed(&machine.run(&hub.url, &["pull", MODEL], &variables));
        assert!(said.contains("HTTPS_PROXY is not") && !said.contains("secret"), "{odd}: {said}");
    }
}
