# What a joiner must wait for, each with its rule and without: without it rows get lost.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a) = new_group(nodes => ['a'], schema => q{
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT g, 'start' FROM generate_series(1, 10) g;});

# A commit that has drawn its hlc stands still while a later one overtakes it.  A snapshot
# taken then shows the later and not the earlier.
sub join_beside_a_slow_commit
{
    my ($name) = @_;
    my $node = new_node($name);

    $a->safe_psql('postgres', q{SELECT cozesync.debug_stop('precommit-after-draw', true)});
    my $slow = background($a, "INSERT INTO t VALUES (100 + ascii('$name'), 'slow, $name')");
    ok(wait_stopped($a, 'precommit-after-draw'), "$name: a commit stands still");
    $a->safe_psql('postgres', "INSERT INTO t VALUES (500 + ascii('$name'), 'fast, $name')");
    my $join = background($node, sprintf(q{CALL cozesync.join_group('%s', '%s', '%s')}, $name, node_dsn($node), node_dsn($a)));
    return ($node, $slow, $join);
}

my ($b, $slow, $join) = join_beside_a_slow_commit('b');
ok(poll_until($a, q{SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%take_snapshot%' AND state = 'active' AND pid <> pg_backend_pid()}),
    'b: the joiner waits for a snapshot without holes');
debug_go($a, 'precommit-after-draw');
is(($slow->finish)[0], 0, 'b: the commit goes on');
is(($join->finish)[0], 0, 'b: so does the join');
ok(wait_quiet($a, $b), 'b: in sync');
same_rows([ $a, $b ], ['t'], 'a snapshot with a hole: holds');

# A copy of a node's database knows that it is one.
$a->safe_psql('postgres', 'CREATE DATABASE restored');
my ($out, $err);
IPC::Run::run([ $a->installed_command('pg_dump'), '-d', $a->connstr('postgres') ], '>', \$out, '2>', \$err);
my ($status, undef, $restore_errors) = $a->psql('restored', $out);
unlike($restore_errors, qr/ERROR/, 'a dump of a node restores');
is($a->safe_psql('restored', 'SELECT state FROM cozesync.about()'), 'copy', 'as a copy');
is($a->safe_psql('restored', 'SELECT count(*) = (SELECT count(*) FROM t) FROM t'), 't', 'with its rows');
like(sql_error($a, q{SELECT cozesync.add_schema('public')}, 'restored'), qr/55000.*is a copy of a node/s, 'it may not change the group');
like(sql_error($a, q{SELECT cozesync.create_group('x', 'x', NULL)}, 'restored'), qr/55000.*is a copy of a node/s, 'nor begin another');
my $d = new_node('d');
like(sql_error($d, sprintf(q{CALL cozesync.join_group('d', '%s', '%s')}, node_dsn($d), node_dsn($a, 'restored'))),
    qr/55000.*not a ready member.*copy/s, 'nor be joined through');
$a->safe_psql('restored', 'SELECT cozesync.leave_group()');
is($a->safe_psql('postgres', 'SELECT count(*) FROM cozesync.nodes'), 2, 'when it leaves the group has all its members');
$a->safe_psql('restored', sprintf(q{CALL cozesync.join_group('restored', '%s', '%s', copy_schema => false, copy_data => false)},
    node_dsn($a, 'restored'), node_dsn($a)));
$a->safe_psql('restored', q{INSERT INTO t VALUES (2000, 'restored')});
ok(poll_until($a, 'SELECT count(*) = 1 FROM t WHERE id = 2000'), 'and joins as a node of its own, with the rows that it has');

# Without the rule the joiner holds what the donor has not yet committed, and the links find
# that out and close.
debug_rule($a, 'clean-snapshot', 1);
my $c;
($c, $slow, $join) = join_beside_a_slow_commit('c');
ok(poll_until($c, q{SELECT count(*) > 0 FROM cozesync.links WHERE last_error LIKE '%that is not in its log%'}),
    'c: without the rule the positions do not fit');
debug_go($a, 'precommit-after-draw');
is(($slow->finish)[0], 0, 'c: the commit goes on');
is($c->safe_psql('postgres', q{SELECT count(*) FROM t WHERE v LIKE 'slow, c'}), 0,
    'a snapshot with a hole: breaks without the rule clean-snapshot');
$c->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL cozesync%'});
$join->finish;

done_testing();
