# Groups of three and more change while they work: nodes join through any member under load on
# all, two at a time, and under one name; a drop is final; a table comes with its rows.

use strict;
use warnings;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a, $b, $c) = new_group(nodes => [qw(a b c)], schema => q{
    CREATE TABLE acc (id int PRIMARY KEY, n bigint NOT NULL, v text);
    CREATE TABLE log (id bigserial PRIMARY KEY, node text);
    INSERT INTO acc SELECT g, 0, repeat('x', 100) FROM generate_series(1, 5000) g});
$a->safe_psql('postgres', 'SELECT cozesync.spread_sequences()');
ok(wait_quiet($a, $b, $c), 'three nodes in sync');

# --- load on all members while nodes join ------------------------------------------------

# What clients of every node do until they are stopped.
my $script = "$PostgreSQL::Test::Utils::tmp_check/load.sql";
append_to_file($script, <<'SQL');
\set k random(1, 5000)
BEGIN;
UPDATE acc SET n = n + 1 WHERE id = :k;
INSERT INTO log (node) VALUES (cozesync.node_name());
COMMIT;
SQL

sub start_load
{
    my ($node) = @_;
    my ($out, $err) = ('', '');
    my $run = IPC::Run::start(
        [ 'pgbench', '-n', '-f', $script, '-c', 2, '-T', 600, '-R', 200, '-M', 'prepared', '-h', $node->host,
            '-p', $node->port, 'postgres' ], '<', \undef, '>', \$out, '2>', \$err);
    return { node => $node, run => $run, err => \$err };
}

sub stop_load
{
    for my $load (@_)
    {
        ok($load->{run}->pumpable, 'clients of ' . $load->{node}->name . ' met no error')
            or diag(${ $load->{err} });
        $load->{run}->kill_kill(grace => 2);
    }
}

my @load = map { start_load($_) } $a, $b, $c;
ok(poll_until($_, 'SELECT count(DISTINCT node) = 3 FROM log'), 'every node is written to: ' . $_->name) for $a, $b, $c;

my $d = new_node('d');
join_node($d, $c);
push @load, start_load($d);
ok(poll_until($a, q{SELECT count(*) > 5 FROM log WHERE node = 'd'}), 'd has joined through c and is written to');

# Two at a time through different members.
my ($e, $f) = (new_node('e'), new_node('f'));
my @joins = map { background($_->[0], sprintf(q{CALL cozesync.join_group('%s', '%s', '%s')}, $_->[0]->name,
    node_dsn($_->[0]), node_dsn($_->[1]))) } [ $e, $a ], [ $f, $b ];
is(join(' ', map { ($_->finish)[0] } @joins), '0 0', 'e and f have joined at the same time');
push @load, start_load($_) for $e, $f;
my @all = ($a, $b, $c, $d, $e, $f);
ok(poll_until($_, q{SELECT count(DISTINCT node) = 6 FROM log}), 'all six are heard of: ' . $_->name) for @all;
stop_load(@load);
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, [qw(acc log)], 'joined under load on all members');
is($a->safe_psql('postgres', 'SELECT count(*) FROM cozesync.conflicts WHERE table_name = $$log$$'), 0,
    'no two nodes have drawn the same number');
is($a->safe_psql('postgres', 'SELECT count(DISTINCT slot) FROM cozesync.nodes'), 6, 'every node has numbers of its own');

# Three, where all are given the same slot: no donor has heard of the others' joiners.
$_->stop for $d, $e, $f;
$a->safe_psql('postgres', "SELECT cozesync.drop_node('$_')") for qw(d e f);
ok(wait_quiet($a, $b, $c), 'back to three');
my ($g, $h, $i) = map { new_node($_) } qw(g h i);
my @six = ($a, $b, $c, $g, $h, $i);
for my $off (1, 0)
{
    debug_rule($_, 'own-slot', $off) for $g, $h, $i;
    $_->safe_psql('postgres', 'SELECT cozesync.pause()') for $a, $b, $c;
    ok(poll_until($_, q{SELECT bool_and(state <> 'streaming') FROM cozesync.links}), $_->name . ' is apart') for $a, $b, $c;
    @joins = map { background($_->[0], sprintf(q{CALL cozesync.join_group('%s', '%s', '%s')}, $_->[0]->name,
        node_dsn($_->[0]), node_dsn($_->[1]))) } [ $g, $a ], [ $h, $b ], [ $i, $c ];
    ok(poll_until($_, q{SELECT phase = 'catching up' FROM cozesync.join_run}), $_->name . ' waits until all members count it') for $g, $h, $i;
    my %slots = map { $_->safe_psql('postgres', q{SELECT m.slot FROM cozesync.member m JOIN cozesync.local_node USING (origin)}) => 1 } $g, $h, $i;
    is(scalar keys %slots, 1, 'all were given the same slot');
    like(sql_error($g, q{UPDATE acc SET n = 0}), qr/55000/, 'and may not be written to yet');
    $_->safe_psql('postgres', 'SELECT cozesync.resume()') for $a, $b, $c;
    is(join(' ', map { ($_->finish)[0] } @joins), '0 0 0', 'all become ready');
    ok(wait_quiet(@six), 'in sync');
    my $different = 6 == grep { $_->safe_psql('postgres', 'SELECT count(DISTINCT slot) FROM cozesync.nodes') == 6 } @six;
    ok($off ? !$different : $different, 'joined at once with one slot: ' . ($off ? 'breaks without the rule own-slot' : 'holds'));
    next if !$off;
    $_->safe_psql('postgres', 'SELECT cozesync.leave_group(); TRUNCATE acc, log') for $g, $h, $i;
    ok(wait_quiet($a, $b, $c), 'they have left');
}
exec_all(q{INSERT INTO log (node) SELECT cozesync.node_name() FROM generate_series(1, 50)}, @six);
ok(wait_quiet(@six), 'in sync');
same_rows(\@six, ['log'], 'numbers that they draw do not collide');
is($a->safe_psql('postgres', 'SELECT count(*) FROM cozesync.conflicts WHERE table_name = $$log$$'), 0, 'not one');
$i->safe_psql('postgres', 'SELECT cozesync.leave_group()');

# Two through one member, each of which knows of the other before it has copied anything.
$_->safe_psql('postgres', 'SELECT cozesync.leave_group(); TRUNCATE acc, log') for $g, $h;
ok(wait_quiet($a, $b, $c), 'g and h have left');
debug_stop($_, 'join-admitted') for $g, $h;
@joins = map { background($_, sprintf(q{CALL cozesync.join_group('%s', '%s', '%s')}, $_->name, node_dsn($_), node_dsn($b))) } $g, $h;
ok(wait_stopped($_, 'join-admitted'), $_->name . ' is let in') for $g, $h;
debug_go($_, 'join-admitted') for $g, $h;
is(join(' ', map { ($_->finish)[0] } @joins), '0 0', 'neither waits for the other');
ok(wait_quiet($a, $b, $c, $g, $h), 'in sync');
same_rows([ $a, $b, $c, $g, $h ], [qw(acc log)]);

# --- two under one name -------------------------------------------------------------------

$_->safe_psql('postgres', 'SELECT cozesync.leave_group(); TRUNCATE acc, log') for $g, $h;
ok(wait_quiet($a, $b, $c), 'g and h have left');
$a->safe_psql('postgres', q{SELECT cozesync.pause('b')});
$c->safe_psql('postgres', 'SELECT cozesync.pause()');
@joins = map { background($_->[0], sprintf(q{CALL cozesync.join_group('twin', '%s', '%s')}, node_dsn($_->[0]),
    node_dsn($_->[1]))) } [ $g, $a ], [ $h, $b ];
ok(poll_until($_, q{SELECT phase = 'catching up' FROM cozesync.join_run}), $_->name . ' is let in as "twin"') for $g, $h;
$a->safe_psql('postgres', 'SELECT cozesync.resume()');
$c->safe_psql('postgres', 'SELECT cozesync.resume()');
my @ends = map { [ $_->finish ] } @joins;
is((scalar grep { $_->[0] == 0 } @ends), 1, 'one of them becomes ready');
like((map { $_->[2] } grep { $_->[0] != 0 } @ends)[0], qr/another database has joined as node "twin" at the same time/,
    'the other is told');
ok(wait_quiet($a, $b, $c), 'in sync');
is($_->safe_psql('postgres', q{SELECT string_agg(node_name, ' ' ORDER BY node_name) FROM cozesync.nodes}), 'a b c twin',
    'one of them is a member: ' . $_->name) for $a, $b, $c;
my ($twin, $lost) = $ends[0][0] == 0 ? ($g, $h) : ($h, $g);
$lost->safe_psql('postgres', 'SELECT cozesync.leave_group()');
$twin->safe_psql('postgres', 'SELECT cozesync.leave_group()');
ok(wait_quiet($a, $b, $c), 'the other three go on');

# --- a drop is final ---------------------------------------------------------------------------

$twin->safe_psql('postgres', 'TRUNCATE acc, log');
$twin->safe_psql('postgres', sprintf(q{CALL cozesync.join_group('x', '%s', '%s')}, node_dsn($twin), node_dsn($a)));
ok(wait_quiet($a, $b, $c, $twin), 'x has joined');
$twin->stop;
$_->safe_psql('postgres', 'SELECT cozesync.pause()') for $a, $b, $c;
$a->safe_psql('postgres', q{SELECT cozesync.drop_node('x')});
$b->safe_psql('postgres', q{SELECT cozesync.set_dsn('x', 'host=elsewhere')});
$c->safe_psql('postgres', q{SELECT cozesync.drop_node('x')});
$_->safe_psql('postgres', 'SELECT cozesync.resume()') for $a, $b, $c;
ok(wait_quiet($a, $b, $c), 'in sync');
is($_->safe_psql('postgres', q{SELECT count(*) FROM cozesync.nodes WHERE node_name = 'x'}), 0,
    'what was written about a node meanwhile does not bring it back: ' . $_->name) for $a, $b, $c;
is($_->safe_psql('postgres', q{SELECT count(*) FROM cozesync.conflicts WHERE table_name = 'dropped_member'}), 0,
    'who both drop it do not disagree: ' . $_->name) for $a, $b, $c;
$a->safe_psql('postgres', 'UPDATE acc SET n = n + 1 WHERE id = 1');
ok(poll_until($_, 'SELECT coalesce(bool_and(kind = $$beat$$), true) FROM cozesync.entries() e, cozesync.stats s WHERE e.hlc > s.cut'),
    'and the cut moves on: ' . $_->name) for $a, $b, $c;

# --- a table that comes with its rows -----------------------------------------------------------

exec_all(q{CREATE TABLE late (id int PRIMARY KEY, v text)}, $a, $b, $c);
$a->safe_psql('postgres', q{INSERT INTO late SELECT g, 'of a' FROM generate_series(1, 1000) g});
$c->safe_psql('postgres', 'SELECT cozesync.pause()');
is($a->safe_psql('postgres', q{SELECT cozesync.add_table('late')}), 1, 'added on a');
$c->safe_psql('postgres', q{INSERT INTO late VALUES (1, 'of c'); SELECT cozesync.resume()});
ok(poll_until($c, q{SELECT bool_or(last_error LIKE '%late was put under sync on another node and is not empty here%')
    OR (SELECT count(*) > 0 FROM cozesync.links WHERE stopped_at IS NOT NULL) FROM cozesync.links}),
    'rows that c has got meanwhile stop the stream there');
is($c->safe_psql('postgres', 'SELECT count(*) FROM late'), 1, 'and nothing is done to them');
$c->safe_psql('postgres', 'DELETE FROM late; SELECT cozesync.retry()');
ok(wait_quiet($a, $b, $c), 'in sync once they are gone');
same_rows([ $a, $b, $c ], ['late'], 'the rows of a are everywhere');

done_testing();
