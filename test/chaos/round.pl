# Whatever goes wrong, a group ends the same, loses nothing, and never shows an effect
# before its cause.
#
# Three to five nodes in a random topology are written to while processes and servers are
# killed or frozen, roads between them cut or frozen, clocks moved, disks full, links
# paused and changed.  When all has healed:
#
#   - all nodes hold the same rows, and the same conflict logs of tables with unique keys
#   - each write of an insert-only table that was acknowledged with synchronous_commit = on
#     is on every node
#   - no reader saw an effect without its cause, or a part of a transaction, at any time
#   - no row under last update wins was seen to step back to an older version, and each
#     version that was superseded unseen is in the conflict log (History.pm)
#
# SEED replays a round (its plan; what meets what is up to the machine), CHAOS_SECONDS is its
# length; FAULTS names the kinds of faults, NODES the number of nodes, TOPOLOGY, CLIENTS
# (writers a node), RETENTION=0|1 override what the seed says.

use strict;
use warnings;
use Cwd ();
use File::Basename qw(dirname);
use lib dirname(Cwd::abs_path(__FILE__)), dirname(Cwd::abs_path(__FILE__)) . '/../lib';
BEGIN { $ENV{PG_TEST_TIMEOUT_DEFAULT} //= 120 }
use CozeTest;
use Faults;
use FaultTools;
use History;
use Load;
use Policies;
use PostgreSQL::Test::Utils;
use Proxy;
use RandomWork qw(pick);
use POSIX ();
use Test::More;
use Time::HiRes qw(time usleep);
use WireSession;

my $seed = $ENV{SEED} // (time ^ $$);
my $seconds = $ENV{CHAOS_SECONDS} // 30;
srand $seed;

my $tmp = PostgreSQL::Test::Utils::tempdir_short();
my $user = (getpwuid $<)[0];
my $began = time;

# --- what the seed says ---------------------------------------------------------------------

my $n = $ENV{NODES} // pick(3, 3, 3, 4, 4, 5);
my $topology = $ENV{TOPOLOGY} // pick(qw(mesh mesh ring star chain));
my $modes = pick(qw(push pull mixed mixed));
my $clients = $ENV{CLIENTS} // pick(1, 2, 3);
my $pace = pick(0, 0.002, 0.02);
my $retention = $ENV{RETENTION} // pick(0, 1);
my $segment = pick('64kB', '256kB', '2MB');
my $batch = pick('64kB', '256kB', '4MB');
my $buffer = pick('16kB', '64kB', '256kB');
my $drift = pick(3, 60);
my ($enabled, @plan) = Faults::plan($seconds, $ENV{FAULTS});
my @names = (qw(a b c d e))[ 0 .. $n - 1 ];
my $spare = (grep { $_ eq 'join' } @$enabled) ? 's' : undef;     # joins later

note "SEED=$seed, $seconds s: $n nodes, $topology, $modes, $clients writers a node, pause $pace, segment $segment,"
    . " batch $batch, buffer $buffer, retention $retention, drift $drift s, faults: @$enabled, " . @plan . ' of them';

# --- the group ------------------------------------------------------------------------------

# The library that moves clocks and fills disks.
my $skew = "$tmp/skew.so";
system_log('gcc', '-shared', '-fPIC', '-O1', '-o', $skew, dirname(Cwd::abs_path(__FILE__)) . '/skew.c') == 0
    or die 'skew.c does not compile';

# Clock and disk of each node: two longs that its preloaded library reads.
sub write_word
{
    my ($name, $which, $value) = @_;
    open my $fh, '+<', "$tmp/skew.$name" or die "skew.$name: $!";
    sysseek $fh, 8 * $which, 0;
    syswrite $fh, pack 'q', $value;
    close $fh;
    return;
}

# Each server finds its peers by a service file of its own, which leads over the proxy.
sub environment
{
    my ($name) = @_;
    return (%ENV, PGSERVICEFILE => "$tmp/services.$name", LD_PRELOAD => $skew,
        SKEW_FILE => "$tmp/skew.$name");
}

sub start_node
{
    my ($node) = @_;
    local %ENV = environment($node->name);
    return system_log('pg_ctl', '-W', '-D', $node->data_dir, '-l', $node->logfile,
        '-o', '--cluster-name=' . $node->name, 'start') == 0;
}

sub session
{
    my ($node) = @_;
    return WireSession->new(host => $node->host, port => $node->port, user => $user, dbname => 'postgres', patience => 20);
}

sub wait_up
{
    my ($node) = @_;
    my $limit = time + 120;
    while (time < $limit)
    {
        start_node($node) if !is_running($node);
        my $session = session($node);
        return $session if $session;
        usleep(100_000);
    }
    die $node->name . ' does not come up';
}

my (@nodes, @all);
for my $name (@names, $spare // ())
{
    my $node = PostgreSQL::Test::Cluster->new($name);
    open my $fh, '>', "$tmp/skew.$name" or die;
    print $fh pack 'qq', 0, 0;
    close $fh;
    $node->init(extra => [ '--no-locale', '--encoding=UTF8', '--no-sync' ]);
    $node->append_conf('postgresql.conf', $CozeTest::conf . qq{
        restart_after_crash = on
        wal_writer_delay = '10s'
        max_wal_size = '128MB'
        min_wal_size = '32MB'
        log_line_prefix = '%m [%p] %b %q%a '
        cozesync.segment_size = '$segment'
        cozesync.batch_size = '$batch'
        cozesync.capture_buffer = '$buffer'
        cozesync.log_retention = '} . ($retention ? '1h' : '0') . qq{'
        cozesync.max_clock_drift = '${drift}s'
        });
    push @nodes, $node;
}
my %node = map { $_->name => $_ } @nodes;
my %roads;
for my $from (map { $_->name } @nodes)
{
    mkdir "$tmp/$from";
    open my $fh, '>', "$tmp/services.$from" or die;
    for my $to (@nodes)
    {
        my ($name, $port) = ($to->name, $to->port);
        print $fh "[$name]\nhost=$tmp/$from\nport=$port\ndbname=postgres\nuser=$user\n";
        $roads{"$from>$name"} = [ "$tmp/$from/.s.PGSQL.$port", $to->host . "/.s.PGSQL.$port" ];
    }
    close $fh;
}
my $proxy = Proxy->start(%roads);
END { kill 'KILL', $proxy->{pid} if $proxy; kill_all_processes($_) for grep { is_running($_) } @all; }
wait_up($_) for @nodes;
@all = @nodes;       # all servers; @nodes are the members
$spare = pop @nodes if defined $spare;

sub run_sql
{
    my ($node, $sql) = @_;
    my $answer = session($node)->query($sql);
    die $node->name . ": $sql: $answer->{message}" if $answer->{lost} || $answer->{state};
    return $answer->{rows};
}

my $first = $nodes[0];
run_sql($_, 'CREATE EXTENSION cozesync') for @all;
run_sql($first, $Load::schema);
my $policies = run_sql($first, "SELECT count(*) FROM pg_proc WHERE pronamespace = 'cozesync'::regnamespace
    AND proname = 'set_conflict_policy'")->[0][0] && ($ENV{POLICIES} // 1);
run_sql($first, $Policies::schema) if $policies;
run_sql($first, "SELECT cozesync.create_group('chaos', node_name => 'a', dsn => 'service=a')");
run_sql($first, "SELECT cozesync.add_schema('public')");
# '' or what went wrong.
sub join_through
{
    my ($node, $via, $patience) = @_;
    my $session = WireSession->new(host => $node->host, port => $node->port, user => $user, dbname => 'postgres',
        patience => $patience) or return 'no session';
    my ($name, $member) = map { $_->name } $node, $via;
    my $answer = $session->query("CALL cozesync.join_group(node_name => '$name', dsn => 'service=$name', via => 'service=$member')");
    return $answer->{lost} ? 'session lost' : $answer->{state} ? $answer->{message} : '';
}

for my $node (@nodes[ 1 .. $#nodes ])
{
    my $said = join_through($node, $nodes[0], 120);
    die $node->name . " does not join: $said" if $said;
}

# node_order names members
run_sql($first, $_) for $policies ? @Policies::setup : ();

# The pairs that are linked.
sub is_linked
{
    my ($i, $j) = @_;
    return 1 if $topology eq 'mesh';
    return $i == 0 || $j == 0 if $topology eq 'star';
    my $apart = abs($i - $j);
    return $apart == 1 || ($topology eq 'ring' && $apart == $n - 1);
}

my @links;
for my $i (0 .. $n - 1)
{
    for my $j (grep { $_ != $i } 0 .. $n - 1)
    {
        my $mode = is_linked($i, $j) ? ($modes eq 'mixed' ? pick(qw(push pull)) : $modes) : 'off';
        run_sql($first, "SELECT cozesync.set_link('$names[$i]', '$names[$j]', '$mode')") if $mode ne 'push';
        push @links, "$names[$i]>$names[$j]" if $mode ne 'off';
    }
}
ok(wait_quiet(@nodes), 'a group is formed') or BAIL_OUT('no group');
note sprintf 'formed after %.0f s', time - $began;

# --- load and faults --------------------------------------------------------------------------

my $stop = "$tmp/stop";
my (@writers, @readers);

sub start_clients
{
    my ($node) = @_;
    my $name = $node->name;
    my %c = (host => $node->host, port => $node->port, user => $user, stop => $stop, pause => $pace, policies => $policies);
    for my $i (1 .. $clients)
    {
        my $number = @writers;
        push @writers, { name => $name, acks => "$tmp/acks.$number", pid => Load::start_writer(%c, tag => $name . $i,
            sync => $number % 3 == 2 ? 'off' : 'on', seed => $seed + 1000 * $number, acks => "$tmp/acks.$number") };
    }
    push @readers, { name => $name, pid => Load::start_reader(%c, tag => $name . 'r', seen => "$tmp/seen.$name", never => "$tmp/never.$name") };
    return;
}

start_clients($_) for @nodes;

# --- members that come and go: join through any member, leave, be dropped --------------------

my $joining;                    # pid of who sees to it
my %gone;

# Tried again and again, through whomever, until it is a member.
sub begin_join
{
    my ($via) = @_;
    return 0 if $joining || !$spare || $gone{joined};
    $joining = fork // die "fork: $!";
    return 1 if $joining;
    my $limit = time + $seconds + 200;
    while (time < $limit)
    {
        my $said = join_through($spare, $via, 60);
        POSIX::_exit(0) if $said eq '';
        open my $out, '>>', "$PostgreSQL::Test::Utils::log_path/join.txt";
        print $out sprintf "%.2f via %s: %s\n", time - $began, $via->name, $said;
        close $out;
        usleep(300_000);
    }
    POSIX::_exit(1);
}

sub end_join
{
    my ($wait) = @_;
    my $limit = time + ($wait ? 120 : 0);
    return if !$joining;
    while (waitpid($joining, POSIX::WNOHANG()) == 0)
    {
        return if !$wait;
        usleep(100_000);
        next if time < $limit;
        dump_group('a node does not come in');
        kill 'KILL', $joining;
        $limit += 60;
    }
    ok($? == 0, 'a node joined') if $wait || $?;
    if ($? == 0)
    {
        push @nodes, $spare;
        start_clients($spare) if !$wait;
        $gone{joined} = 1;
        $spare = undef;
    }
    $joining = undef;
    return;
}

# Its writers end first; what it had not sent goes with it.
sub remove_member
{
    my ($node, $by) = @_;
    my $name = $node->name;
    for my $p (grep { $_->{name} eq $name } @writers, @readers)
    {
        kill 'KILL', $p->{pid};
        waitpid $p->{pid}, 0;
    }
    @writers = grep { $_->{name} ne $name } @writers;
    @readers = grep { $_->{name} ne $name } @readers;
    @nodes = grep { $_ != $node } @nodes;
    $gone{$name} = 1;
    if (!$by)
    {
        my $answer = (session($node) // return 0)->query("SET statement_timeout = '60s'; SELECT cozesync.leave_group()");
        return !$answer->{lost} && !$answer->{state};
    }
    kill_all_processes($node);
    my $answer = (session($by) // return 0)->query("SET statement_timeout = '60s'; SELECT cozesync.drop_node('$name')");
    return !$answer->{lost} && !$answer->{state};
}

open my $story, '>', "$PostgreSQL::Test::Utils::log_path/story.txt" or die;
$story->autoflush(1);
my %group = (nodes => \@nodes, proxy => $proxy, roads => [ sort grep { !/^(.)>\1/ } keys %roads ], links => \@links,
    down => {}, at_end => [], max_skew => $drift == 3 ? 5000 : 4000, session => \&session,
    say => sub { print $story "$_[0]\n" },
    begin_join => \&begin_join, remove_member => \&remove_member, topology => $topology, size => $n,
    set_skew => sub { write_word($_[0], 0, $_[1]) }, set_full => sub { write_word($_[0], 1, $_[1]) });
my $next_look = 0;
$group{keep_up} = sub
{
    return if time < $next_look;
    $next_look = time + 0.3;
    end_join(0);
    for my $node (grep { !$group{down}{ $_->name } && !is_running($_) } @nodes, $spare // ())
    {
        start_node($node);
    }
};
my %done = Faults::run(\%group, $seconds, @plan);
note 'faults: ' . (join(', ', map { "$_ $done{$_}" } sort keys %done) || 'none');

# --- healing ------------------------------------------------------------------------------------

$proxy->set($_, 'pass') for keys %roads;
$group{down} = {};
for my $node (@all)
{
    write_word($node->name, 1, 0);
    write_word($node->name, 0, 0);
}
wait_up($_) for @nodes, $spare // ();
for my $heal (@{ $group{at_end} })
{
    my $tries = 0;
    usleep(200_000) until $heal->() || ++$tries > 100;
}
open my $fh, '>', $stop or die;
close $fh;
my $limit = time + 30;
for my $p (@writers, @readers)
{
    while (waitpid($p->{pid}, 1) == 0)
    {
        usleep(50_000);
        open(my $hard, '>', "$stop.hard") if time > $limit;
    }
}
wait_up($_) for @nodes;
end_join(1);

my $healing = time;
my $quiet = eval { wait_quiet(@nodes) } // diag($@);
ok($quiet, 'everything reaches every node') or dump_group('not in sync');
note sprintf 'in sync after %.1f s', time - $healing;

# --- what must be true ------------------------------------------------------------------------------

same_rows(\@nodes, [ @Load::tables, $policies ? (@Policies::tables, $Policies::counted) : () ], 'the same rows') or dump_group('rows differ');

# The losers of tables whose rows are folded, and where each was decided.
sub folded_conflicts
{
    my ($node) = @_;
    return $node->safe_psql('postgres', q{
        SELECT c.table_name, c.key, c.conflict_type, c.loser_hlc, c.loser_origin, c.decided_hlc, c.decided_origin
          FROM cozesync.conflict c WHERE (c.table_name LIKE '%unique' OR c.table_name LIKE 'p\_%') AND c.conflict_type NOT LIKE '%missing'
         ORDER BY 1, c.key::text COLLATE "C", 3, 4, 5, 6, 7});
}

# Lines that only one of two lists has.
sub differing
{
    my ($one, $other) = @_;
    my %in = map { $_ => 1 } split /\n/, $one;
    my @only = grep { !delete $in{$_} } split /\n/, $other;
    return join "\n", (map { "there: $_" } @only), map { "here: $_" } sort keys %in;
}

my @logs = map { folded_conflicts($_) } @nodes;
is(differing($logs[$_], $logs[0]), '', "the same conflicts over rows that are folded on " . $nodes[$_]->name . ' as on a')
    or dump_group('conflicts differ') for 1 .. $#logs;

my %acknowledged;
# what a member that left had not sent is gone with it
for my $writer (grep { -e $_->{acks} } @writers)
{
    for (split /\n/, slurp_file($writer->{acks}))
    {
        my ($table, $token, $sync) = split / /;
        $acknowledged{$table}{$token} = 1 if $sync eq 'on';
    }
}
my @ids = sort keys %{ $acknowledged{only_inserts} };
cmp_ok(scalar @ids, '>', 0, 'writes were acknowledged: ' . @ids);
for my $node (@nodes)
{
    my $name = $node->name;
    my %there = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', 'SELECT id FROM only_inserts');
    my @lost = grep { !$there{$_} } @ids;
    is(scalar @lost, 0, "each of them is on node $name") or diag(join ' ', splice @lost, 0, 10);
    if ($policies)
    {
        is($node->safe_psql('postgres', $Policies::miscounted), 0, "counters, sets and objects tell the same on node $name")
            or dump_group('counters do not add up');
        my %counted = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', "SELECT unnest(st) FROM $Policies::counted");
        my @uncounted = grep { !$counted{$_} } sort keys %{ $acknowledged{$Policies::counted} };
        is(scalar @uncounted, 0, 'and hold each acknowledged step, ' . scalar(keys %counted) . ' in all')
            or diag(join ' ', splice @uncounted, 0, 10) or dump_group('a step is lost');
    }
    is($node->safe_psql('postgres', q{SELECT count(*) FROM cozesync.conflict
            WHERE conflict_type IN ('update_missing', 'delete_missing') OR reason LIKE 'nothing in the change log%'
               OR table_name IN ('only_inserts', 'cause', 'effect', 'pair_left', 'pair_right', 'large')}),
        0, "no sign of divergence on node $name") or dump_group('signs of divergence');
    my $never = -e "$tmp/never.$name" ? slurp_file("$tmp/never.$name") : '';
    is($never, '', "nothing was seen on node $name that must never be");
    log_is_found($node) or dump_group('entries that are not found');
    my $log = slurp_file($node->logfile);
    # the server itself gives up, and recovers, when there is no room for its WAL
    my %gave_up = map { $_ => 1 } $log =~ /\[(\d+)\] .*PANIC: .*No space left/g;
    my @alarming = grep { !/No space left/ && !(/\(PID (\d+)\) was terminated by signal 6/ && $gave_up{$1}) }
        grep { /PANIC|TRAP:|damaged|unique constraint "(log|chunk)_|signal (4|6|7|8|11):/ } split /\n/, $log;
    is(scalar @alarming, 0, "nothing alarming in the log of node $name")
        or diag(join "\n", splice @alarming, 0, 10);
}

if ($retention)
{
    my $history = History->new(sub { run_sql($first, $_[0]) });
    note scalar(keys %{ $history->{entries} }) . ' entries, ' . scalar(keys %{ $history->{tokens}{hot} }) . ' writes of hot rows';
    my @lost = grep { !$history->{tokens}{hot}{$_} } sort keys %{ $acknowledged{hot} };
    is(scalar @lost, 0, 'each acknowledged write of a hot row is in the log')
        or dump_group('a write is not in the log: ' . join ' ', splice @lost, 0, 10);
    for my $node (@nodes)
    {
        my $name = $node->name;
        my %on_record = map { History::record_name(@$_) => 1 } @{ run_sql($node,
            'SELECT table_name, key, loser_hlc, loser_origin FROM cozesync.conflict') };
        my @missing = $history->unexplained(\%on_record);
        is(scalar @missing, 0, "what was overtaken unseen is on record on node $name")
            or diag(join "\n", splice @missing, 0, 10) or dump_group('writes without a trace');
        # a node that joined at the very end was not looked at
        my @seen = -e "$tmp/seen.$name" ? split /\n/, slurp_file("$tmp/seen.$name") : ();
        my @back = $history->steps_back('hot', $name, @seen);
        is(scalar @back, 0, "no row was seen to step back on node $name, " . @seen . ' times')
            or diag(join "\n", splice @back, 0, 10) or dump_group('a row steps back');
    }
}

# For a look afterwards.
sub dump_group
{
    my ($why) = @_;
    my $path = "$PostgreSQL::Test::Utils::log_path/dump.txt";
    return if -e $path;
    open my $out, '>', $path or return;
    print $out "$why\n";
    for my $node (@nodes, $spare // ())
    {
        print $out '=== ', $node->name, "\n";
        for my $sql ('SELECT * FROM cozesync.links', 'SELECT * FROM cozesync.stats', 'SELECT cozesync.vector()',
            'SELECT * FROM cozesync.nodes', 'SELECT origin, node_name FROM cozesync.member', 'SELECT * FROM cozesync.link_mode',
            "SELECT pid, backend_type, application_name, state, wait_event_type, wait_event, left(query, 100) FROM pg_stat_activity",
            'SELECT * FROM pg_locks WHERE NOT granted', 'SELECT * FROM cozesync.drop_entry', 'SELECT * FROM cozesync.join_run',
            'SELECT * FROM cozesync.base', 'SELECT * FROM cozesync.local_node', 'SELECT * FROM cozesync.entries()',
            'SELECT * FROM cozesync.changes()', 'SELECT * FROM cozesync.conflict ORDER BY loser_hlc')
        {
            my ($status, $text, $err) = $node->psql('postgres', $sql, timeout => 60, extra_params => [ '-x' ]);
            print $out "--- $sql\n", $text // '', "\n", $err // '', "\n";
        }
    }
    close $out;
    diag("see $path");
    return;
}

$proxy->stop;
$proxy = undef;
note sprintf 'round took %.0f s', time - $began;
done_testing();
