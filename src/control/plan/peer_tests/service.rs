use super::*;
use crate::config::wish::ServiceWish;

#[test]
fn a_service_of_a_sealed_overlay_may_name_backends_of_other_hosts() {
    let mut model = Model::default();
    make(&mut model, &wide("mesh", "10.1.0.0/16")).unwrap();
    make(&mut model, &over("open", &["carrier=vxlan"])).unwrap();
    join(&mut model, "mesh", 1, None).unwrap();
    let wish = |network: &str, backends: &[&str]| ServiceWish {
        name: "web".into(),
        network: network.into(),
        ports: list(&["80"]),
        backends: list(backends),
        ..ServiceWish::default()
    };
    let create = |model: &mut Model, wish: &ServiceWish| {
        let made = create_service(model, wish, false, Origin::Command);
        made.map_err(|p| (p.code, p.field.unwrap_or_default()))
    };
    let refused = |code| Err((code, "backends.1".to_owned()));
    let other = create(&mut model.clone(), &wish("open", &["s1", "far"]));
    assert_eq!(other, Err((Code::UnknownEndpoint, "backends.0".into())));
    let unfit = create(&mut model.clone(), &wish("mesh", &["s1", "a/b"]));
    assert_eq!(unfit, refused(Code::BadName));
    let id = create(&mut model, &wish("mesh", &["s1", "Far", "s2"])).unwrap();
    let serves = |model: &Model| {
        let spec = model.service_spec(&model.services[&id]);
        (spec.backends.len(), spec.elsewhere)
    };
    assert_eq!(serves(&model), (1, list(&["far", "s2"])));
    // One that comes here is one of this host's.
    join(&mut model, "mesh", 2, None).unwrap();
    assert_eq!(serves(&model), (2, list(&["far"])));
}
