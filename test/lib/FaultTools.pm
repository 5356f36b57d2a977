# FaultTools - the processes of a server, and their ends.

package FaultTools;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(postmaster children is_running kill_all_processes kill_server);

sub postmaster
{
    my ($node) = @_;
    my ($pid) = split /\n/, (eval { slurp_file($node->data_dir . '/postmaster.pid') } // '');
    return $pid;
}

sub is_running
{
    my ($node) = @_;
    my $pid = postmaster($node);
    return $pid && kill(0, $pid);
}

# [pid, what ps says] of each process of a server.
sub children
{
    my ($node) = @_;
    my $pid = postmaster($node) or return;
    return map { /^\s*(\d+)\s+(.*)$/ ? [ $1, $2 ] : () } split /\n/,
        `ps -o pid=,args= --ppid $pid`;
}

# Kill a server with all that belongs to it, and wait until it is gone.
sub kill_all_processes
{
    my ($node) = @_;
    my $pid = postmaster($node) or return;
    my @all = map { $_->[0] } children($node);
    kill 'KILL', $pid, @all;
    my $limit = time + 30;
    usleep(20_000) while (grep { kill 0, $_ } $pid, @all) && time < $limit;
    $node->{_pid} = undef;
    return;
}

# The same, and start it again.
sub kill_server
{
    my ($node) = @_;
    kill_all_processes($node);
    my $limit = time + 60;
    usleep(200_000) until $node->start(fail_ok => 1) || time > $limit;
    return;
}

1;
