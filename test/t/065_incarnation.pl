# A node that has lost transactions goes on as a new incarnation: nothing that the group holds is
# lost, nothing that it had not sent gets to others by itself, and few rows are copied.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a, $b, $c) = new_group(nodes => [qw(a b c)], schema => q{
    CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE u (id int PRIMARY KEY, tag text UNIQUE);
    CREATE TABLE p (id int, r int, v text, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
    CREATE TABLE p0 PARTITION OF p FOR VALUES IN (0);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
    CREATE TABLE s (id serial PRIMARY KEY, v text);
    INSERT INTO t SELECT g, 'start' FROM generate_series(1, 100) g;
    INSERT INTO p SELECT g, g % 2, 'start' FROM generate_series(1, 10) g;
    INSERT INTO u SELECT g, 'tag' || g FROM generate_series(1, 10) g},
    setup => 'SELECT cozesync.spread_sequences()');
my @all = ($a, $b, $c);
my @tables = qw(t u p s);
my $dir = $b->data_dir;

sub on { my ($node, $sql) = @_; return $node->safe_psql('postgres', $sql) }

# b goes back to what it was before it wrote what the group holds of it.
sub lose
{
    my ($written) = @_;
    ok(wait_quiet(@all), 'in sync');
    ok(poll_until($b, q{SELECT coalesce((SELECT max(hlc) FROM cozesync.changes(NULL, 'b')) <= cozesync.sent_upto(), true)}),
        'b knows that others have all of it');
    $b->stop;
    system_or_bail('cp', '-a', $dir, "$dir.backup");
    $b->start;
    $written->();
    ok(wait_quiet(@all), 'the group holds more than the backup');
    $b->stop;
    system_or_bail('rm', '-r', $dir);
    system_or_bail('mv', "$dir.backup", $dir);
    $b->start;
    return;
}

sub is_ready
{
    return poll_until($b, q{SELECT count(*) = 1 FROM cozesync.nodes WHERE is_local AND state = 'ready'}) &&
        wait_quiet(@all);
}

my $salvage = q{SELECT string_agg(concat_ws(' ', relation, operation, key ->> 'id', new_row ->> 'v', new_row ->> 'tag'), ', ') FROM cozesync.salvage()};

# --- an older state, restored ----------------------------------------------------------------

like(sql_error($b, 'SELECT cozesync.confirm_identity(new_incarnation => true)'), qr/55006.*is linked with node "a".*leave_group/s,
    'a node that has lost nothing stays what it is');
is(on($b, q{SELECT state FROM cozesync.nodes WHERE is_local}), 'ready', 'and goes on');

lose(sub {
    on($b, q{INSERT INTO t VALUES (1001, 'sent'); UPDATE t SET v = 'sent' WHERE id = 1; UPDATE p SET r = 1 - r WHERE id = 1});
    on($a, q{SELECT cozesync.execute_everywhere('ALTER TABLE u ADD COLUMN w int DEFAULT 7')});
    on($a, q{INSERT INTO t VALUES (1002, 'of a'); DELETE FROM t WHERE id = 90; SELECT cozesync.set_conflict_policy('p', 'first_update_wins')});
});
ok(poll_until($b, q{SELECT state = 'needs_copy' FROM cozesync.nodes WHERE is_local}), 'that b went back is noticed');
on($b, q{INSERT INTO t VALUES (1003, 'unsent'); UPDATE t SET v = 'unsent' WHERE id IN (1, 2); DELETE FROM t WHERE id = 3;
    UPDATE p SET v = 'unsent' WHERE id = 2; INSERT INTO s (v) VALUES ('unsent')});
on($a, q{UPDATE t SET v = 'meanwhile' WHERE id = 4; DELETE FROM t WHERE id = 5});
on($c, q{UPDATE u SET tag = 'meanwhile' WHERE id = 6});
like(sql_error($b, 'SELECT cozesync.confirm_identity()'), qr/55000.*new_incarnation => true.*salvage/s, 'it cannot go on as it is');
like(sql_error($b, 'BEGIN; DELETE FROM t; SELECT cozesync.confirm_identity(true)'), qr/25001/, 'nor in a transaction that has written');
my $log = -s $b->logfile;
on($b, 'SELECT cozesync.confirm_identity(new_incarnation => true)');
ok(is_ready(), 'b goes on');
same_rows(\@all, \@tables, 'nothing that the group holds is lost, and nothing else is there');
is(on($b, q{SELECT string_agg(id || ' ' || v, ', ' ORDER BY id) FROM t WHERE v <> 'start'}), '1 sent, 4 meanwhile, 1001 sent, 1002 of a', 'what came back');
is(on($b, $salvage), 'public.t insert 1003 unsent, public.t update 1 unsent, public.t update 2 unsent, public.t delete 3, ' .
    'public.p update 2 unsent, public.s insert ' . on($b, q{SELECT key ->> 'id' FROM cozesync.salvage() WHERE relation = 'public.s'}) . ' unsent', 'what b had not sent can be read');
my $said = slurp_file($b->logfile, $log);
like($said, qr/brought table public\.t up to date: 6 rows/, 'few rows were copied');
unlike($said, qr/copied table public\.[tps]:/, 'no table as a whole');
is(on($_, q{SELECT string_agg(node_name || ' ' || state, ', ' ORDER BY node_name) FROM cozesync.nodes}), 'a ready, b ready, c ready', 'all know all on ' . $_->name) for @all;
on($b, q{INSERT INTO t VALUES (2001, 'new'); INSERT INTO s (v) VALUES ('b')});
on($a, q{INSERT INTO t VALUES (2002, 'new'); INSERT INTO s (v) VALUES ('a')});
on($c, q{INSERT INTO s (v) VALUES ('c')});
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, \@tables, 'writes go all ways');
is(conflicts_of($b), conflicts_of($a), 'conflicts are the same');
is(on($b, q{SELECT count(*) FROM cozesync.check() WHERE severity = 'error'}), 0, 'the doctor finds nothing wrong');
is(on($b, 'SELECT cozesync.purge_salvage()'), 6, 'what was saved can be forgotten');
like(sql_error($b, 'SELECT * FROM cozesync.salvage()'), qr/55000.*is a member of its group/s, 'and is');

# --- what others forgot is copied as a whole -----------------------------------------------------

on($_, q{ALTER SYSTEM SET cozesync.segment_size = '64kB'}), on($_, 'SELECT pg_reload_conf()') for @all;
lose(sub {
    on($b, q{UPDATE t SET v = 'sent' WHERE id = 7});
    on($a, "INSERT INTO t SELECT $_ * 1000 + g, repeat('x', 7000) FROM generate_series(1, 20) g") for 3 .. 5;
    ok(poll_until($a, q{SELECT emptied > (SELECT cozesync.time_hlc(min(hlc)) FROM cozesync.changes('-infinity'::timestamptz, 'b'))
        OR NOT EXISTS (SELECT FROM cozesync.changes(NULL, 'b')) FROM cozesync.local_node}), 'a forgets');
    on($_, 'SELECT cozesync.wait_for_sync()') for @all;
});
ok(poll_until($b, q{SELECT state = 'needs_copy' FROM cozesync.nodes WHERE is_local}), 'that b went back is noticed again');
on($b, q{UPDATE t SET v = 'unsent' WHERE id = 8});
$log = -s $b->logfile;
on($b, 'SELECT cozesync.confirm_identity(new_incarnation => true)');
ok(is_ready(), 'b goes on');
same_rows(\@all, \@tables, 'again nothing is lost');
like(slurp_file($b->logfile, $log), qr/copied table public\.t: /, 'the table was copied');

# --- nobody to go on from ---------------------------------------------------------------------------

$_->stop for $a, $c;
like(sql_error($b, 'SELECT cozesync.confirm_identity(new_incarnation => true)'), qr/could not ask node "a".*55000.*no other member/s, 'without the others it cannot be');
is(on($b, q{SELECT state FROM cozesync.nodes WHERE is_local}), 'ready', 'and changes nothing');
$_->start for $a, $c;
ok(wait_quiet(@all), 'in sync');

# --- rows that only b has --------------------------------------------------------------------------

for my $off (0, 1)
{
    lose(sub { on($b, q{UPDATE t SET v = 'sent' WHERE id = 9}) });
    ok(poll_until($b, q{SELECT state = 'needs_copy' FROM cozesync.nodes WHERE is_local}), 'that b went back is noticed');
    on($b, q{UPDATE t SET v = 'unsent' WHERE id = 10});
    debug_rule($b, 'stale-keys', $off);
    on($b, 'SELECT cozesync.confirm_identity(new_incarnation => true)');
    ok(is_ready(), 'b goes on');
    my $well = digest($b, 't') eq digest($a, 't');
    ok($off ? !$well : $well, 'rows that a node had not sent: ' . ($off ? 'breaks without the rule stale-keys' : 'holds'));
}

done_testing();
