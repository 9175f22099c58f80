# openvswitch.sh - an Open vSwitch of our own, in user space, beside none or any of the machine's.
# Sourced by peers.

openvswitch_needs=(ovs-vswitchd:openvswitch-switch ovs-vswitchd:openvswitch-switch-dpdk)

# openvswitch PROGRAM [SETTING...]: its database and its daemon, with other_config SETTINGs.
openvswitch() {
    local program=$1 setting
    shift
    export OVS_RUNDIR=/run/stage/ovs OVS_DBDIR=/run/stage/ovs OVS_LOGDIR=/run/stage/ovs OVS_SYSCONFDIR=/run/stage/ovs
    mkdir -p "$OVS_RUNDIR"
    show ovsdb-tool create ovs/conf.db /usr/share/openvswitch/vswitch.ovsschema
    spawn database ovsdb-server --remote=punix:/run/stage/ovs/db.sock --unixctl=/run/stage/ovs/database.ctl ovs/conf.db
    await database test -S ovs/db.sock
    vsctl --no-wait init
    for setting in "$@"; do
        vsctl --no-wait set Open_vSwitch . "other_config:$setting"
    done
    spawn switch "$program" unix:/run/stage/ovs/db.sock --unixctl=/run/stage/ovs/switch.ctl
    # Until the daemon has done it.
    vsctl add-br br0 -- set bridge br0 datapath_type=netdev
}
vsctl() { show ovs-vsctl --db=unix:/run/stage/ovs/db.sock --timeout=20 "$@"; }
