//! What the API server accepts and refuses, by evaluating the generated CEL rules here.

#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

use cumulet_crds::{DatArchive, PersonalCloud};
use kube::core::cel::{validate_cel, validate_cel_update};
use serde_json::{Value, json};

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const Z32: &str = "yryefzpmj7mp9g4t76zzmm7o9g4t76zzmm7o9g4t76zzmm7o9ghy";

fn archive(spec: Value) -> DatArchive {
    serde_json::from_value(json!({"apiVersion": "cumulet.io/v1alpha1", "kind": "DatArchive",
        "metadata": {"name": "a"}, "spec": spec}))
    .unwrap()
}

fn cloud(name: &str, spec: Value) -> PersonalCloud {
    serde_json::from_value(
        json!({"apiVersion": "cumulet.io/v1alpha1", "kind": "PersonalCloud",
        "metadata": {"name": name}, "spec": spec}),
    )
    .unwrap()
}

fn archive_error(spec: Value) -> String {
    validate_cel(&archive(spec)).unwrap_err().to_string()
}

fn cloud_error(spec: Value) -> String {
    validate_cel(&cloud("ada", spec)).unwrap_err().to_string()
}

#[test]
fn every_accepted_form_of_a_key_passes() {
    assert_eq!(Z32.len(), 52);
    for key in [
        HEX.to_owned(),
        HEX.to_uppercase(),
        Z32.to_owned(),
        format!("hyper://{HEX}"),
        format!("hyper://{HEX}/"),
        format!("pear://{Z32}"),
        format!("dat://{HEX}"),
    ] {
        validate_cel(&archive(json!({"key": key}))).unwrap_or_else(|e| panic!("{key}: {e}"));
    }
}

#[test]
fn a_wrong_key_is_refused_with_the_field_named() {
    for key in [
        String::new(),
        HEX[1..].to_owned(),
        format!("{HEX}0"),
        format!("http://{HEX}"),
        format!("hyper:/{HEX}"),
        format!("g{}", &HEX[1..]),
        format!("hyper://{HEX}/file"),
        format!("l{}", &Z32[1..]),
        format!("{}b", &Z32[..51]),
        format!(" {HEX}"),
    ] {
        let error = archive_error(json!({"key": key}));
        assert!(error.contains("spec.key must be 64 hex digits"), "{key}: {error}");
    }
}

#[test]
fn the_key_and_the_cloud_of_an_archive_cannot_change() {
    let old = archive(json!({"key": HEX}));
    let new = archive(json!({"key": HEX.replace('0', "1"), "cloudName": "other"}));
    let error = validate_cel_update(&new, &old).unwrap_err().to_string();
    assert!(error.contains("spec.key cannot be changed"), "{error}");
    assert!(error.contains("spec.cloudName cannot be changed"), "{error}");
    validate_cel_update(&archive(json!({"key": HEX, "type": "Drive"})), &old).unwrap();
}

#[test]
fn include_and_exclude_stay_inside_the_drive() {
    for field in ["include", "exclude"] {
        for path in ["/etc", "../up", "a/../b", ".."] {
            let error = archive_error(json!({"key": HEX, "sync": {field: ["ok/**", path]}}));
            assert!(
                error.contains(&format!("spec.sync.{field} must")),
                "{field} {path}: {error}"
            );
        }
        for path in ["a/b/**", "a..b", "..a/b", "**/*.png"] {
            validate_cel(&archive(json!({"key": HEX, "sync": {field: [path]}}))).unwrap();
        }
    }
}

#[test]
fn only_files_can_be_selected() {
    for kind in ["Core", "Bee"] {
        let error = archive_error(json!({"key": HEX, "type": kind, "sync": {"include": ["a"]}}));
        assert!(error.contains("they need spec.type Auto or Drive"), "{error}");
        validate_cel(&archive(
            json!({"key": HEX, "type": kind, "sync": {"mode": "Sparse"}}),
        ))
        .unwrap();
    }
}

#[test]
fn storage_grows_and_never_shrinks() {
    let old = cloud("ada", json!({"storage": {"size": "1Gi"}}));
    validate_cel_update(&cloud("ada", json!({"storage": {"size": "1024Mi"}})), &old).unwrap();
    validate_cel_update(&cloud("ada", json!({"storage": {"size": "2Gi"}})), &old).unwrap();
    let error = validate_cel_update(&cloud("ada", json!({"storage": {"size": "1G"}})), &old)
        .unwrap_err()
        .to_string();
    assert!(error.contains("spec.storage.size cannot shrink"), "{error}");
    for size in ["much", "0", "-1Gi"] {
        let error = cloud_error(json!({"storage": {"size": size}}));
        assert!(
            error.contains("spec.storage.size must be a quantity"),
            "{size}: {error}"
        );
    }
}

#[test]
fn the_storage_class_cannot_change_appear_or_go() {
    let with = |class: Option<&str>| match class {
        Some(class) => cloud(
            "ada",
            json!({"storage": {"size": "1Gi", "storageClassName": class}}),
        ),
        None => cloud("ada", json!({"storage": {"size": "1Gi"}})),
    };
    for (old, new) in [(Some("a"), Some("b")), (Some("a"), None), (None, Some("a"))] {
        let error = validate_cel_update(&with(new), &with(old))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("spec.storage.storageClassName cannot be changed"),
            "{error}"
        );
    }
    validate_cel_update(&with(Some("a")), &with(Some("a"))).unwrap();
}

#[test]
fn wrong_network_and_backup_fields_are_named() {
    for (spec, field) in [
        (
            json!({"network": {"bootstrap": ["dht.example.org"]}}),
            "spec.network.bootstrap",
        ),
        (json!({"network": {"port": 8443}}), "spec.network.port"),
        (
            json!({"network": {"relay": {"maxBytesPerSecond": "fast"}}}),
            "spec.network.relay.maxBytesPerSecond",
        ),
        (
            json!({"devices": [{"name": "Phone!", "publicKey": HEX}]}),
            "spec.devices.name",
        ),
        (
            json!({"devices": [{"name": "phone", "publicKey": HEX.replace('0', "g")}]}),
            "spec.devices.publicKey",
        ),
        (
            json!({"backup": {"s3": {"bucket": "Bad_Name"}}}),
            "spec.backup.s3.bucket",
        ),
        (
            json!({"backup": {"s3": {"bucket": "good", "prefix": "/a"}}}),
            "spec.backup.s3.prefix",
        ),
        (
            json!({"backup": {"s3": {"bucket": "good", "endpoint": "s3.example.org"}}}),
            "spec.backup.s3.endpoint",
        ),
        (
            json!({"backup": {"s3": {"bucket": "good"}, "maxLag": "soon"}}),
            "spec.backup.maxLag",
        ),
    ] {
        let error = cloud_error(spec);
        assert!(error.contains(field), "{field}: {error}");
    }
    validate_cel(&cloud("ada", json!({
        "network": {"bootstrap": ["10.0.0.1:49737", "dht.example.org:49737"], "port": 49737,
            "serveDht": true, "relay": {"enabled": true, "maxBytesPerSecond": "10Mi", "maxSessions": 64}},
        "devices": [{"name": "phone", "publicKey": HEX}],
        "backup": {"s3": {"bucket": "good.name", "prefix": "a/b", "endpoint": "http://10.0.0.1:4566"}, "maxLag": "500ms"}})))
    .unwrap();
}

#[test]
fn names_that_pods_cannot_bear_are_refused() {
    for name in ["a.b", &"a".repeat(41)] {
        let error = validate_cel(&cloud(name, json!({}))).unwrap_err().to_string();
        assert!(error.contains("metadata.name must"), "{error}");
    }
    validate_cel(&cloud(&"a".repeat(40), json!({}))).unwrap();
}

#[test]
fn an_empty_cloud_has_the_documented_defaults() {
    let spec = cloud("ada", json!({})).spec;
    assert_eq!(spec, cumulet_crds::PersonalCloudSpec::default());
    assert_eq!(
        (spec.replicas, spec.storage.size.as_str(), spec.network.port),
        (2, "10Gi", 49737)
    );
    let spec = archive(json!({"key": HEX})).spec;
    assert!(spec.backup.enabled && !spec.gateway.public && spec.announce.is_none());
    assert_eq!(spec.cloud_name, "default");
}

/// The API server refuses a rule whose worst case is unbounded, so every list and string with a rule has a bound.
#[test]
fn every_list_and_string_under_a_rule_is_bounded() {
    fn walk(path: &str, schema: &Value, under_rule: bool) {
        let ruled = under_rule || schema.get("x-kubernetes-validations").is_some();
        match schema["type"].as_str() {
            Some("string") if ruled && schema.get("enum").is_none() => {
                assert!(schema.get("maxLength").is_some(), "{path} has no maxLength");
            }
            Some("array") if ruled => assert!(schema.get("maxItems").is_some(), "{path} has no maxItems"),
            _ => {}
        }
        if let Some(items) = schema.get("items") {
            walk(&format!("{path}[]"), items, ruled);
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), property, ruled);
        }
    }
    for definition in cumulet_crds::definitions() {
        let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
        walk(
            &definition.spec.names.kind,
            &schema["openAPIV3Schema"]["properties"]["spec"],
            false,
        );
    }
}

#[test]
fn the_definitions_outlive_the_chart_and_have_their_subresources() {
    let yaml = cumulet_crds::yaml().unwrap();
    assert_eq!(yaml.matches("helm.sh/resource-policy: keep").count(), 2);
    assert_eq!(
        yaml.matches("x-kubernetes-list-map-keys:").count(),
        3,
        "conditions merge by type, and devices by name"
    );
    assert!(!yaml.contains("{{"), "the chart would read this as a template");
    for definition in cumulet_crds::definitions() {
        let subresources = definition.spec.versions[0].subresources.as_ref().unwrap();
        assert!(subresources.status.is_some());
        assert_eq!(
            subresources.scale.is_some(),
            definition.spec.names.kind == "PersonalCloud"
        );
    }
}
