//! An account for the replicas that can do nothing: no pod gets Kubernetes credentials.

use crate::build::owned;
use crate::validate::Cloud;
use k8s_openapi::api::core::v1::ServiceAccount;

pub(crate) fn build(cloud: &Cloud) -> ServiceAccount {
    ServiceAccount {
        metadata: owned(cloud, cloud.names.base()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::full_cloud;

    #[test]
    fn no_token_is_mounted() {
        assert_eq!(build(&full_cloud()).automount_service_account_token, Some(false));
    }
}
