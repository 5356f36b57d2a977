# NetTest - nodes on networks of their own, whose roads a test can cut.
#
# The test runs itself again in namespaces of its own (user, network, mounts), which needs no
# rights where the system lets users have them.  Each node's server gets a network namespace
# with an address of its own; all of them are connected by a router, which is the test's own
# namespace.  A road is cut by a rule of the router that drops what goes one way, without a
# word to either end, as a firewall or a broken cable does.
#
# psql goes through Unix sockets, so it reaches every node whatever is cut.

package NetTest;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(enter_network add_host in_network host_of cut mend);

my %host;

sub _run
{
    my @command = @_;
    system(@command) == 0 or die "failed: @command";
    return;
}

# Call first of all: returns in the namespaces, or skips the test.
sub enter_network
{
    my @unshare = ('unshare', '--map-current-user', '--keep-caps', '--net', '--mount');
    if (!$ENV{COZE_IN_NETWORK})
    {
        my $trial = 'mount -t tmpfs none /run && ip netns add x && ip link add v type veth peer name w netns x'
            . ' && ip rule add from 10.0.0.1 to 10.0.0.2 blackhole && test -w /proc/sys/net/ipv4/ip_forward';
        plan skip_all => 'network namespaces are not allowed here'
            if system("@unshare sh -c '$trial' >/dev/null 2>&1") != 0;
        $ENV{COZE_IN_NETWORK} = 1;
        exec @unshare, $^X, (map { "-I$_" } @INC), $0, @ARGV or die "could not unshare: $!";
    }
    delete $ENV{COZE_IN_NETWORK};
    _run(qw(mount -t tmpfs none /run));
    _run(qw(ip link set lo up));
    open my $forward, '>', '/proc/sys/net/ipv4/ip_forward' or die $!;
    print $forward "1\n";
    close $forward;
    return;
}

# A network for the node of this name.
sub add_host
{
    my ($name) = @_;
    my $n = 1 + keys %host;
    my $net = "10.9.$n";
    _run(qw(ip netns add), $name);
    _run(qw(ip link add), "v$n", qw(type veth peer name eth0 netns), $name);
    _run(qw(ip addr add), "$net.254/24", 'dev', "v$n");
    _run(qw(ip link set), "v$n", 'up');
    _run('ip', '-n', $name, @$_)
        for [qw(link set lo up)], ['addr', 'add', "$net.1/24", qw(dev eth0)], [qw(link set eth0 up)],
        [qw(route add default via), "$net.254"];
    $host{$name} = "$net.1";
    return $host{$name};
}

sub host_of
{
    my ($name) = @_;
    return $host{$name};
}

# Run code (that starts a server, say) so that pg_ctl works in the node's network.
sub in_network
{
    my ($name, $code) = @_;
    my $dir = PostgreSQL::Test::Utils::tempdir();
    my ($real) = grep { -x "$_/pg_ctl" } split /:/, $ENV{PATH};
    open my $file, '>', "$dir/pg_ctl" or die $!;
    print $file "#!/bin/sh\nexec nsenter --net=/run/netns/$name $real/pg_ctl \"\$@\"\n";
    close $file;
    chmod 0755, "$dir/pg_ctl";
    local $ENV{PATH} = "$dir:$ENV{PATH}";
    return $code->();
}

# Drop what goes from one node to the other, from now on; mend() lets it through again.
sub cut
{
    my ($from, $to) = @_;
    _run(qw(ip rule add from), $host{$from}, 'to', $host{$to}, 'blackhole');
    return;
}

sub mend
{
    my ($from, $to) = @_;
    _run(qw(ip rule del from), $host{$from}, 'to', $host{$to}, 'blackhole');
    return;
}

1;
