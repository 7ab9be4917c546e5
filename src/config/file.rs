//! The file of `--config`: TOML with the options' own names, unknown ones refused with their place.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::raw::NetOptions;

/// Reads options from a file. Errors: one line with path, line and column.
pub fn load(path: &Path) -> Result<NetOptions> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("config {shown}"))?;
    parse(&text, &shown.to_string())
}

fn parse(text: &str, shown: &str) -> Result<NetOptions> {
    match toml::from_str(text) {
        Ok(options) => Ok(options),
        Err(e) => {
            let (line, column) = place(text, e.span().map_or(0, |s| s.start));
            let message = e.message().lines().collect::<Vec<_>>().join(", ");
            bail!("config {shown}:{line}:{column}: {message}")
        }
    }
}

/// Line and column of a byte offset, both from one; columns count characters.
pub(super) fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(line_start..).map_or(0, |s| s.chars().count());
    (before.matches('\n').count() + 1, column + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_options() {
        let text = "ip = '10.1.2.3'\nmtu = 9000\npublish = ['8080:80', '53/udp']\nudp-filter = 'endpoint-independent'\nhost-access = true\n";
        let options = parse(text, "f").unwrap();
        assert_eq!(options.mtu, Some(9000));
        assert_eq!(options.publish, ["8080:80", "53/udp"]);
        assert!(options.host_access);
        assert_eq!(parse("network = 'none'", "f").unwrap().network, ["none"]);
        let two = parse("network = ['web', 'back']", "f").unwrap();
        assert_eq!(two.network, ["web", "back"]);
        let text = "network = 'web'\ntrunk = '10,20'\nnative = 1\n[policy]\nisolated = true\nlimits = { egress = '1M' }";
        let trunk = parse(text, "f").unwrap();
        let vlans = (trunk.vlan, trunk.trunk.as_deref(), trunk.native);
        assert_eq!(vlans, (None, Some("10,20"), Some(1)));
        let policy = trunk.policy.unwrap();
        assert!(policy.isolated && policy.limits == [("egress".to_owned(), "1M".to_owned())]);
    }

    #[test]
    fn mistakes_have_a_place() {
        insta::assert_snapshot!(
            ["mtu = 1500\nmtuu = 1", "é = 1", "mtu = 'big'", "mtu = ", "publish = 80", "udp-filter = 'none'", "a = \"\n"]
                .map(|t| parse(t, "weft.toml").unwrap_err().to_string())
                .join("\n"),
            @r#"
            config weft.toml:2:1: unknown field `mtuu`, expected one of `network`, `name`, `hostname`, `alias`, `ifname`, `kind`, `ip`, `ip6`, `subnet`, `subnet6`, `mac`, `mtu`, `publish`, `expose`, `publish-all`, `dns`, `dns-search`, `add-host`, `host-loopback`, `host-access`, `pcap`, `impair`, `workers`, `queues`, `ready-fd`, `pid-file`, `user`, `udp-filter`, `socket`, `vlan`, `trunk`, `native`, `priority`, `no-configure`, `sysctl`, `policy`
            config weft.toml:1:1: invalid unquoted key, expected letters, numbers, `-`, `_`
            config weft.toml:1:7: invalid type: string "big", expected u32
            config weft.toml:1:7: string values must be quoted, expected literal string
            config weft.toml:1:11: invalid type: integer `80`, expected a sequence
            config weft.toml:1:14: unknown variant `none`, expected one of `endpoint-independent`, `address-dependent`, `address-and-port-dependent`
            config weft.toml:1:6: invalid basic string, expected `"`
            "#
        );
    }

    #[test]
    fn the_command_line_wins() {
        let file = NetOptions {
            mtu: Some(9000),
            publish: vec!["1".into()],
            ..NetOptions::default()
        };
        let line = NetOptions {
            publish: vec!["2".into()],
            vlan: Some(10),
            ..NetOptions::default()
        };
        let file = NetOptions {
            vlan: Some(20),
            priority: Some(-3),
            no_configure: true,
            sysctl: vec!["a=1".into()],
            ..file
        };
        let both = line.over(file);
        assert_eq!((both.mtu, both.publish), (Some(9000), vec!["2".to_owned()]));
        let joined = (both.vlan, both.priority, both.no_configure, both.sysctl);
        assert_eq!(joined, (Some(10), Some(-3), true, vec!["a=1".to_owned()]));
    }
}
