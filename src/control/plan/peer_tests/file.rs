use super::*;

const FILE: &str = "
[[network]]
name = 'web'
driver = 'overlay'
subnet = '10.1.0.0/16'

[[peer]]
name = 'b'
key = 'KEY'
endpoint = '192.0.2.2'
networks = ['web']
prefixes = ['10.1.1.0/24']

[[peer]]
name = 'c'
carrier = 'vxlan'
endpoint = '192.0.2.3'
";

fn read(text: &str) -> TopologyFile {
    TopologyFile::parse(text.replace("KEY", &key(2)), "f".to_owned()).unwrap()
}

fn put(model: &mut Model, file: &Topology) -> Result<Vec<String>, Problem> {
    let mut nobody = |_: &Model, _: &EndpointWish| unreachable!("no endpoint is in the file");
    let mut copy = model.clone();
    let changes = apply(&mut copy, &facts(), file, &mut nobody, &mut Vec::new())?;
    *model = copy;
    let line = |c: Change| format!("{} {} {}", c.action, c.kind, c.name);
    Ok(changes.into_iter().map(line).collect())
}

#[test]
fn a_file_has_peers_and_only_the_difference_is_made() {
    let mut model = Model::default();
    let file = |text: &str| read(text).topology;
    assert_eq!(
        put(&mut model, &file(FILE)).unwrap(),
        ["add network web", "add peer b", "add peer c"]
    );
    assert_eq!(put(&mut model, &file(FILE)).unwrap(), Vec::<String>::new());
    meet(&mut model, &sealed("mine", 7)).unwrap();
    let id = model.peer("b").unwrap().id;
    let moved = FILE.replace("'192.0.2.2'", "'192.0.2.4'\nkeepalive = 25");
    assert_eq!(put(&mut model, &file(&moved)).unwrap(), ["change peer b"]);
    assert_eq!(model.peer("b").unwrap().id, id);
    let secret = moved.replace(
        "keepalive",
        "secret = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE='\nkeepalive",
    );
    assert_eq!(put(&mut model, &file(&secret)).unwrap(), ["change peer b"]);
    assert_eq!(
        put(&mut model, &file(&secret)).unwrap(),
        Vec::<String>::new()
    );
    // This host's part may move to where the peer's was, in one file.
    let swapped = FILE
        .replace("/16'", "/16'\nip-range = '10.1.1.0/24'")
        .replace("['10.1.1.0/24']", "['10.1.0.0/24']");
    let mut changes = put(&mut model, &file(&swapped)).unwrap();
    changes.sort_unstable();
    assert_eq!(changes, ["change network web", "change peer b"]);
    let range = model.network("web").unwrap().spec.overlay.unwrap().range;
    assert_eq!(range.first.to_string(), "10.1.1.0");
    let mut changes = put(&mut model, &file("")).unwrap();
    changes.sort_unstable();
    assert_eq!(
        changes,
        ["remove network web", "remove peer b", "remove peer c"]
    );
    assert_eq!(model.peers.len(), 1);
}

#[test]
fn a_files_mistakes_about_peers_have_a_place() {
    for (from, to, place) in [
        ("'KEY'", "'key'", "f:9:1: key 'key': a key is 44"),
        (
            "networks = ['web']",
            "networks = ['x']",
            "f:11:13: there is no network 'x'",
        ),
        (
            "'10.1.1.0/24'",
            "'10.1.0.0/25'",
            "f:12:1: 10.1.0.0/25 of peer 'b' overlaps 10.1.0.1 to 10.1.0.255",
        ),
        ("'c'", "'b'", "f:15:1: peer 'b' is twice in the file"),
        ("'192.0.2.3'", "'[1]'", "f:17:1: endpoint '[1]'"),
    ] {
        let file = read(&FILE.replace(from, to));
        let mut model = Model::default();
        let problem = file.point(&put(&mut model, &file.topology).unwrap_err());
        assert!(
            problem.message.starts_with(&format!("config {place}")),
            "{problem}"
        );
        assert_eq!(model, Model::default());
    }
}
