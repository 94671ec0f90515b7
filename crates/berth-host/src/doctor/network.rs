//! Registries, proxies, certificates, and time.

use std::thread;

use super::Host;
use super::Notes;
use super::engines;

/// No more registries than this are asked.
const MANY: usize = 8;

/// A difference of clocks, in seconds, that something notices: munge bears 300, make and tar notice less.
const APART: i64 = 5;

/// The registries of the configuration: whether they can be reached.
pub fn registries(host: &Host, notes: &mut Notes) {
    let mut names = Vec::new();
    // What cannot be read is another check's finding.
    for table in engines::registry_tables(host, &mut Notes::default()) {
        let search = table.get("unqualified-search-registries").and_then(toml::Value::as_array);
        names.extend(search.into_iter().flatten().filter_map(toml::Value::as_str).map(str::to_owned));
        for entry in table.get("registry").and_then(toml::Value::as_array).into_iter().flatten() {
            if entry.get("blocked").and_then(toml::Value::as_bool) == Some(true) {
                continue;
            }
            let mirrors = entry.get("mirror").and_then(toml::Value::as_array).into_iter().flatten();
            for place in std::iter::once(entry).chain(mirrors) {
                let place =
                    place.get("location").or(place.get("prefix")).and_then(toml::Value::as_str).unwrap_or_default();
                names.push(place.split('/').next().unwrap_or_default().to_owned());
            }
        }
    }
    names.retain(|name| !name.is_empty() && !name.contains('*'));
    names.sort();
    names.dedup();
    names.truncate(MANY);
    let proxied = proxy(host).is_some();
    if names.is_empty() {
        notes.fine("no registry is configured; docker.io is asked for short names");
        return;
    }
    let ask = |name: &String| {
        let (target, port) = split_port(name, 443);
        let own = host.env("no_proxy").or(host.env("NO_PROXY")).unwrap_or_default();
        let direct = !proxied
            || own.split(',').any(|part| !part.is_empty() && target.ends_with(part.trim().trim_start_matches('.')));
        if direct { host.tries.connect(&target, port) } else { Ok(()) }
    };
    let answers: Vec<Result<(), String>> = thread::scope(|scope| {
        let askers: Vec<_> = names.iter().map(|name| scope.spawn(move || ask(name))).collect();
        askers.into_iter().map(|asker| asker.join().unwrap_or_else(|_| Err("no answer".to_owned()))).collect()
    });
    for (name, answer) in names.iter().zip(answers) {
        match answer {
            Ok(()) => notes.fine(format!("the registry {name} can be reached")),
            Err(reason) => {
                notes
                    .advice(
                        "registry-unreachable",
                        format!("the registry {name} of registries.conf cannot be reached: {reason}"),
                    )
                    .breaks("berth pull and podman pull of its images here")
                    .mend(format!("curl -v https://{name}/v2/    # a proxy, a firewall, or a name that no longer is"));
            }
        }
    }
}

/// A host and a port, with the port that is meant where none is said.
fn split_port(name: &str, default: u16) -> (String, u16) {
    match name.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host.to_owned(), port.parse().unwrap_or(default)),
        _ => (name.to_owned(), default),
    }
}

fn proxy(host: &Host) -> Option<(&'static str, &str)> {
    ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy"]
        .into_iter()
        .find_map(|name| Some((name, host.env(name)?)))
}

/// The proxy of the environment.
pub fn proxies(host: &Host, notes: &mut Notes) {
    let Some((name, address)) = proxy(host) else {
        notes.fine("no proxy is set");
        return;
    };
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest).trim_end_matches('/');
    let (target, port) = split_port(rest, 80);
    if target.is_empty() || target.contains(['/', ' ']) {
        notes
            .fault("proxy-broken", format!("the variable {name} is no address of a proxy"))
            .breaks("everything that is fetched by HTTP")
            .mend(format!("export {name}=http://HOST:PORT"));
        return;
    }
    match host.tries.connect(&target, port) {
        Ok(()) => notes.fine(format!("the proxy {target}:{port} can be reached")),
        Err(reason) => {
            notes
                .fault("proxy-unreachable", format!("the proxy {target}:{port} ({name}) cannot be reached: {reason}"))
                .breaks("everything that is fetched by HTTP: berth pull, podman pull")
                .mend(format!("unset {name}    # or the right address, in /etc/environment and in jobs"));
        }
    }
}

/// Certificates of the system, and of single registries.
pub fn certificates(host: &Host, notes: &mut Notes) {
    const BUNDLES: [&str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    ];
    if let Some(file) = host.env("SSL_CERT_FILE").filter(|file| !host.exists(file)) {
        notes
            .fault("certificates-variable", format!("SSL_CERT_FILE names {file}, which is not there"))
            .breaks("every connection with TLS")
            .mend("unset SSL_CERT_FILE");
    }
    if !BUNDLES.iter().any(|path| host.exists(path)) {
        notes
            .advice("certificates-missing", "this host has no certificates of authorities")
            .breaks("podman pull and curl; and berth pull where a site has an authority of its own")
            .mend("apt-get install ca-certificates");
    }
    for base in ["/etc/containers/certs.d", "/etc/docker/certs.d"] {
        for registry in host.list(base) {
            let dir = format!("{base}/{registry}");
            for name in host.list(&dir) {
                let path = format!("{dir}/{name}");
                if name.ends_with(".crt") && !host.read(&path).is_ok_and(|text| text.contains("BEGIN CERTIFICATE")) {
                    notes
                        .fault("certificate-broken", format!("{path} is no certificate in PEM form"))
                        .breaks(format!("every image of {registry}"))
                        .mend(format!("openssl x509 -inform der -in {path} -out {path}.pem && mv {path}.pem {path}"));
                }
                if name.ends_with(".crt") || name.ends_with(".cert") {
                    expired(host, &path, &registry, notes);
                }
                if let Some(stem) = name.strip_suffix(".cert").filter(|stem| !host.exists(&format!("{dir}/{stem}.key")))
                {
                    notes
                        .fault("certificate-key", format!("{path} has no key {stem}.key beside it"))
                        .breaks(format!("every image of {registry}"))
                        .mend(format!("install -m 0600 CLIENT.key {dir}/{stem}.key"));
                }
            }
        }
    }
    if notes.findings.is_empty() {
        notes.fine("certificates are there");
    }
}

/// A certificate whose time is over, as far as there is an openssl to ask.
fn expired(host: &Host, path: &str, registry: &str, notes: &mut Notes) {
    let said = host.run(&["openssl", "x509", "-noout", "-checkend", "0", "-in", path]);
    // It says the same code where it cannot read the file, which is another finding.
    if said.code == Some(1) && said.stdout.contains("will expire") {
        notes
            .fault("certificate-expired", format!("the certificate {path} has expired"))
            .breaks(format!("every image of {registry}"))
            .mend(format!(
                "openssl x509 -noout -enddate -in {path}    # ask the registry's administrator for a new one"
            ));
    }
}

/// This host's clock against that of the file system that the store is on, which may be another host's.
pub fn clock(host: &Host, notes: &mut Notes) {
    let Ok(store) = &host.places.store else { return };
    let nearest = host.nearest(store);
    match host.tries.clock_of(&host.path(&nearest.to_string_lossy())) {
        Some(ahead) if ahead.abs() >= APART => {
            let which = if ahead > 0 { "behind" } else { "ahead of" };
            notes
                .fault(
                    "clock",
                    format!(
                        "this host's clock is {} s {which} that of the file system {}",
                        ahead.abs(),
                        nearest.display()
                    ),
                )
                .breaks("munge beyond 300 s, certificates, and what berth gc thinks is old")
                .mend("chronyc makestep    # or: systemctl restart systemd-timesyncd");
        }
        Some(_) => notes.fine("the clock agrees with that of the file system"),
        None => notes.fine("the clock was not compared: nothing can be written where the store is"),
    }
}
