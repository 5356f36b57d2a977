# The way out of a transaction that cannot be applied on one node: without effect on all, its
# changes in every conflict log, and all rows the same.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a, $b, $c) = new_group(nodes => [qw(a b c)], schema => q{
    CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE u (id int PRIMARY KEY, name text UNIQUE, v text);
    CREATE TABLE w (id int PRIMARY KEY, v text);
    CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10);
    CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (10) TO (20);
    INSERT INTO t SELECT g, 'start' FROM generate_series(1, 10) g;
    INSERT INTO u SELECT g, 'name ' || g, 'start' FROM generate_series(1, 5) g;
    INSERT INTO w SELECT g, 'start' FROM generate_series(1, 5) g;
    INSERT INTO p SELECT g, 'start' FROM generate_series(1, 15) g;});
my @all = ($a, $b, $c);
my @tables = qw(t u w p);
my $stopped = q{SELECT bool_or(stopped_at IS NOT NULL) FROM cozesync.links};
my $skip = q{SELECT cozesync.skip_entry((stopped_at).origin, (stopped_at).hlc) FROM cozesync.links WHERE stopped_at IS NOT NULL LIMIT 1};

ok(wait_quiet(@all), 'in sync');
exec_all(q{ALTER TABLE t ADD CONSTRAINT not_bad CHECK (v <> 'bad')}, $b);
my %before = map { $_ => digest($b, $_) } @tables;

# --- one that touches much --------------------------------------------------------------

$a->safe_psql('postgres', q{BEGIN;
    UPDATE t SET v = 'bad' WHERE id IN (1, 2); INSERT INTO t VALUES (100, 'bad'); DELETE FROM t WHERE id = 3;
    UPDATE t SET id = 200 WHERE id = 4;
    UPDATE u SET name = 'name 9' WHERE id = 1; UPDATE u SET name = 'name 1' WHERE id = 2; DELETE FROM u WHERE id = 3;
    INSERT INTO u VALUES (7, 'name 3', 'bad');
    TRUNCATE w; INSERT INTO w VALUES (2, 'bad'), (9, 'bad');
    UPDATE p SET v = 'bad' WHERE id = 1; UPDATE p SET id = 18 WHERE id = 2; DELETE FROM p WHERE id = 12;
    COMMIT});
ok(poll_until($b, $stopped), 'b cannot apply it');
ok(poll_until($c, q{SELECT count(*) = 1 FROM t WHERE id = 100}), 'c has');
my ($origin, $hlc) = split /\|/, $b->safe_psql('postgres',
    q{SELECT (stopped_at).origin, (stopped_at).hlc FROM cozesync.links WHERE stopped_at IS NOT NULL LIMIT 1});
like(sql_error($a, "SELECT cozesync.skip_entry('$origin', '$hlc')"), qr/55000.*this node has applied.*on the node whose stream is stopped/s,
    'not where it was applied');
like(sql_error($b, "SELECT cozesync.skip_entry('$origin', timestamptz '$hlc' + interval '1 microsecond')"), qr/55000.*no stream of this node is stopped/s,
    'not another one');
like(sql_error($b, "SELECT cozesync.skip_entry('x', '$hlc')"), qr/42704.*there is no node "x"/s, 'not of a stranger');
like(sql_error($b, "SELECT cozesync.skip_entry(NULL, '$hlc')"), qr/22004/, 'not of nobody');
ok($b->safe_psql('postgres', $stopped), 'it is still stopped');

$b->safe_psql('postgres', "SELECT cozesync.skip_entry('a', '$hlc')");
ok(wait_quiet(@all), 'in sync');
ok(poll_until($b, q{SELECT count(*) = 0 FROM cozesync.skip_todo}), 'b has told the others');
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, \@tables, 'all nodes hold the same rows');
is(digest($_, 't'), $before{t}, 'as they were, on ' . $_->name) for @all;
is(digest($a, $_), $before{$_}, "table $_, too") for qw(u w p);
is($_->safe_psql('postgres', q{SELECT count(*) FROM cozesync.conflicts WHERE reason LIKE 'the transaction was skipped by %'}),
    $b->safe_psql('postgres', q{SELECT count(*) FROM cozesync.conflicts WHERE reason LIKE 'the transaction was skipped by %'}),
    'what is lost is in the conflict log: ' . $_->name) for $a, $c;
is($c->safe_psql('postgres', q{SELECT string_agg(key ->> 'id', ' ' ORDER BY (key ->> 'id')::int) FROM cozesync.conflicts
    WHERE table_name = 't' AND reason LIKE 'the transaction was skipped by %'}), '1 2 3 100 200', 'row by row');
is($c->safe_psql('postgres', q{SELECT remote_row ->> 'v' FROM cozesync.conflicts WHERE table_name = 't' AND key = '{"id": 100}'}), 'bad',
    'with what was written');
is($a->safe_psql('postgres', q{SELECT count(*) FROM cozesync.conflicts WHERE reason LIKE 'nothing in the change log%'}), 0,
    'nothing is unexplained');
$_->safe_psql('postgres', sprintf(q{UPDATE t SET v = '%s' WHERE id = %d}, $_->name, @{ { a => [1], b => [2], c => [3] }->{ $_->name } })) for @all;
ok(wait_quiet(@all), 'streams go on');
same_rows(\@all, \@tables);

# --- one that others have built on --------------------------------------------------------

$a->safe_psql('postgres', q{UPDATE t SET v = 'bad' WHERE id IN (5, 6)});
ok(poll_until($c, q{SELECT count(*) = 2 FROM t WHERE v = 'bad'}), 'c has it');
$c->safe_psql('postgres', q{UPDATE t SET v = 'of c' WHERE id = 5});
$a->safe_psql('postgres', q{UPDATE t SET v = 'of a' WHERE id = 7});
ok(poll_until($b, $stopped), 'b is stopped');
$b->stop('immediate');
$b->start;
ok(poll_until($b, $stopped), 'after a crash, too');
$b->safe_psql('postgres', $skip);
ok(wait_quiet(@all), 'in sync');
ok(poll_until($b, q{SELECT count(*) = 0 FROM cozesync.skip_todo}), 'b has told the others');
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, \@tables, 'what was built on it ends the same on all nodes');
is($a->safe_psql('postgres', q{SELECT v FROM t WHERE id = 6}), 'start', 'without effect on its author');
is($b->safe_psql('postgres', q{SELECT v FROM t WHERE id = 7}), 'of a', 'what came behind it is there');

# --- two nodes stopped at one entry -----------------------------------------------------------

exec_all(q{ALTER TABLE t ADD CONSTRAINT not_bad CHECK (v <> 'bad')}, $c);
$a->safe_psql('postgres', q{UPDATE t SET v = 'bad' WHERE id = 8});
ok(poll_until($_, $stopped), $_->name . ' is stopped') for $b, $c;
$b->safe_psql('postgres', $skip);
ok(wait_quiet(@all), 'in sync');
ok(poll_until($b, q{SELECT count(*) = 0 FROM cozesync.skip_todo}), 'b has told the others');
ok(wait_quiet(@all), 'one call is enough for both');
same_rows(\@all, \@tables);
is($a->safe_psql('postgres', q{SELECT v FROM t WHERE id = 8}), 'start', 'without effect on its author');

# --- DDL ----------------------------------------------------------------------------------------

$b->safe_psql('postgres', 'CREATE TABLE clash (other int)');
$a->safe_psql('postgres', q{SELECT cozesync.execute_everywhere('CREATE TABLE clash (id int PRIMARY KEY)')});
ok(poll_until($b, $stopped), 'b cannot execute it');
$b->safe_psql('postgres', $skip);
$a->safe_psql('postgres', q{UPDATE t SET v = 'after' WHERE id = 9});
ok(wait_quiet(@all), 'the stream goes on without');
same_rows(\@all, \@tables);

# --- a table that one node cannot take ---------------------------------------------------------------

exec_all('CREATE TABLE late (id int PRIMARY KEY, v text)', @all);
$a->safe_psql('postgres', q{INSERT INTO late SELECT g, 'a' FROM generate_series(1, 10) g});
$b->safe_psql('postgres', q{SELECT cozesync.pause()});
$a->safe_psql('postgres', q{SELECT cozesync.add_table('late')});
$b->safe_psql('postgres', q{INSERT INTO late VALUES (1, 'of b'); SELECT cozesync.resume()});
ok(poll_until($b, $stopped), 'a table that is not empty there');
$b->safe_psql('postgres', $skip);
ok(wait_quiet(@all), 'in sync');
ok(poll_until($_, q{SELECT count(*) = 0 FROM cozesync.tables WHERE table_name = 'late'}), 'it is under sync nowhere: ' . $_->name) for @all;
is(join(' ', map { $_->safe_psql('postgres', 'SELECT count(*) FROM late') } $a, $b), '10 1', 'rows stay as they are on its author and there');

# --- a new member knows ------------------------------------------------------------------------------

my $d = new_node('d');
join_node($d, $b);
ok(wait_quiet(@all, $d), 'd has joined');
same_rows([ @all, $d ], \@tables);

done_testing();
