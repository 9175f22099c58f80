//! Users and groups on command lines and in tables: by name or number.

use anyhow::{Context, Result};
use nix::unistd::{Gid, Group, Uid, User};

/// A user, by name or number.
pub fn parse_user(text: &str) -> Result<u32> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    let user = User::from_name(text).context("the user database cannot be read")?;
    user.map(|user| user.uid.as_raw())
        .with_context(|| format!("there is no user {text}"))
}

/// A group, by name or number.
pub fn parse_group(text: &str) -> Result<u32> {
    if let Ok(gid) = text.parse() {
        return Ok(gid);
    }
    let group = Group::from_name(text).context("the group database cannot be read")?;
    group
        .map(|group| group.gid.as_raw())
        .with_context(|| format!("there is no group {text}"))
}

/// A user's name, or the number if there is none.
pub fn user_name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid))
        .ok()
        .flatten()
        .map_or(uid.to_string(), |user| user.name)
}

/// A group's name, or the number if there is none.
pub fn group_name(gid: u32) -> String {
    Group::from_gid(Gid::from_raw(gid))
        .ok()
        .flatten()
        .map_or(gid.to_string(), |group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_go_by_name_or_number() {
        assert_eq!(parse_user("root").unwrap(), 0);
        assert_eq!(parse_user("4321").unwrap(), 4321);
        assert_eq!(parse_group("root").unwrap(), 0);
        assert!(
            parse_user("no-such-user")
                .unwrap_err()
                .to_string()
                .contains("no user no-such-user")
        );
        assert!(
            parse_group("no-such-group")
                .unwrap_err()
                .to_string()
                .contains("no group no-such-group")
        );
        assert_eq!(
            (user_name(0).as_str(), user_name(4_000_000_000).as_str()),
            ("root", "4000000000")
        );
        assert_eq!(group_name(0), "root");
    }
}
