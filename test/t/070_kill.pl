# Nothing is lost, nothing comes twice, whatever is killed.
#
# For a minute both nodes are written to, with synchronous_commit on and off,
# while backends, workers and whole servers of both are killed at random.
# Afterwards the tables are the same, each write of the insert-only table that was
# acknowledged with synchronous_commit = on is on both nodes, and nothing is there
# twice.  SEED and SECONDS in the environment replay a run or make it longer.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use FaultTools;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seed = $ENV{SEED} // (time ^ $$);
my $seconds = $ENV{SECONDS} // 60;
note "SEED=$seed SECONDS=$seconds";
srand($seed);

my ($a, $b) = new_pair(
    conf => "restart_after_crash = on\nwal_writer_delay = '10s'\n",
    schema => q{
        CREATE TABLE only_inserts (id uuid PRIMARY KEY, node text, sync bool,
                                   at timestamptz DEFAULT clock_timestamp());
        CREATE TABLE hot (id int PRIMARY KEY, v bigint, t text);
        INSERT INTO hot SELECT g, 0, 'start' FROM generate_series(1, 50) g;
        CREATE TABLE come_and_go (id int PRIMARY KEY, t text);
        CREATE TABLE large (id uuid PRIMARY KEY, t text);
    });
my @nodes = ($a, $b);
my $tmp = PostgreSQL::Test::Utils::tempdir();
my $stop = "$tmp/stop";

# --- load: one process per client, which goes on whenever it loses its server ------

# Transactions of many kinds; the ids of only_inserts come back as acknowledgements.
sub script
{
    my ($node, $sync) = @_;
    my $name = $node->name;
    my $sql = 'SET synchronous_commit = ' . ($sync ? 'on' : 'off') . ";\n";
    for (1 .. 200)
    {
        my ($k, $g, $h) = map { 1 + int rand $_ } 50, 30, 30;
        $sql .= "INSERT INTO only_inserts (id, node, sync)"
            . " VALUES (gen_random_uuid(), '$name', '$sync') RETURNING id;\n"
            . "UPDATE hot SET v = v + 1, t = '$name' WHERE id = $k;\n"
            . "INSERT INTO come_and_go VALUES ($g, '$name')"
            . " ON CONFLICT (id) DO UPDATE SET t = excluded.t;\n"
            . "DELETE FROM come_and_go WHERE id = $h;\n";
        $sql .= "BEGIN; SAVEPOINT s; UPDATE hot SET v = -1 WHERE id = $k; ROLLBACK TO s;"
            . " UPDATE hot SET v = v + 10 WHERE id = $k; COMMIT;\n" if rand() < 0.2;
        $sql .= "INSERT INTO large SELECT gen_random_uuid(), repeat('x', 100)"
            . " FROM generate_series(1, 3000);\n" if rand() < 0.02;
    }
    return $sql;
}

sub start_client
{
    my ($node, $sync, $number) = @_;
    my %client = (node => $node, sync => $sync, acks => "$tmp/acks.$number");
    $client{pid} = fork // die "cannot fork: $!";
    return \%client if $client{pid};

    srand($seed + $number);
    open STDERR, '>', '/dev/null';
    while (!-e $stop)
    {
        my $file = "$tmp/sql.$number";
        open my $fh, '>', $file or POSIX::_exit(1);
        print $fh script($node, $sync);
        close $fh;
        system('sh', '-c', 'exec timeout 120 psql -XAtq -d "$1" -f "$2" >>"$3"', 'sh',
            $node->connstr('postgres'), $file, $client{acks});
        usleep(50_000);
    }
    POSIX::_exit(0);
}

my @clients;
for my $node (@nodes)
{
    push @clients, start_client($node, $_, scalar @clients) for 1, 1, 0;
}

# --- faults --------------------------------------------------------------------------

my %done;
my $end = time + $seconds;
while (time < $end)
{
    usleep(300_000 + rand 1_500_000);
    my $node = $nodes[ rand @nodes ];
    my $dice = rand;
    if ($dice < 0.15)
    {
        kill_server($node);
        $done{'server KILL'}++;
        next;
    }
    my ($what, $pattern) = $dice < 0.55 ? ('worker', qr/cozesync/) : ('backend', qr/postgres: \S+ postgres /);
    my @victims = map { $_->[0] } grep { $_->[1] =~ $pattern } children($node);
    my $victim = $victims[ rand @victims ] or next;
    my $signal = rand() < 0.5 ? 'TERM' : 'KILL';
    kill $signal, $victim;
    $done{"$what $signal"}++;
}
note join ', ', map { "$_: $done{$_}" } sort keys %done;

open my $fh, '>', $stop or die "cannot write $stop: $!";
close $fh;
waitpid $_->{pid}, 0 for @clients;
$_->poll_query_until('postgres', 'SELECT true') or die 'a node does not come back' for @nodes;

# --- afterwards ------------------------------------------------------------------------

cmp_ok(scalar(keys %done), '>=', 3, 'faults of several kinds happened');
ok(wait_quiet(@nodes), 'everything reaches the other node');
same_rows(\@nodes, [qw(only_inserts hot come_and_go large)], 'the tables are the same');

# Ids that a client was told, and by which node.
my %acknowledged;
for my $client (grep { $_->{sync} && -e $_->{acks} } @clients)
{
    $acknowledged{$_} = $client->{node}->name
        for grep { /^[0-9a-f-]{36}$/ } split /\n/, slurp_file($client->{acks});
}
cmp_ok(scalar(keys %acknowledged), '>', 100, 'writes were acknowledged: ' . keys %acknowledged);
for my $node (@nodes)
{
    my $name = $node->name;
    my %lost = %acknowledged;
    delete $lost{$_} for split /\n/, $node->safe_psql('postgres', 'SELECT id FROM only_inserts');
    is(scalar keys %lost, 0, "each of them is on node $name")
        or diag(join "\n", map { "$_ acknowledged by $lost{$_}" } sort keys %lost);
    is($node->safe_psql('postgres', q{SELECT count(*) FROM cozesync.conflicts
            WHERE relation::text IN ('only_inserts', 'large')}),
        0, "no row came twice on node $name");
    ok(log_is_found($node), "each entry of node $name is found in its log");
    my @alarming = grep { /PANIC|TRAP:|damaged|unique constraint "(log|chunk)_/ }
        split /\n/, slurp_file($node->logfile);
    is(scalar @alarming, 0, "nothing alarming in the log of node $name")
        or diag(join "\n", splice @alarming, 0, 10);
}

done_testing();
