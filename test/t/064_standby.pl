# A standby that is promoted is the node if it had received everything; if it lagged, that is
# noticed before anything leaves it, and it joins anew.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a, $b) = new_group(nodes => [qw(a b)], conf => "wal_level = replica\nmax_wal_senders = 5\n",
    schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');
ok(wait_sync($a, $b), 'in sync');

sub make_standby
{
    my ($of, $name) = @_;
    my $standby = PostgreSQL::Test::Cluster->new($name);
    $of->backup($name);
    $standby->init_from_backup($of, $name, has_streaming => 1);
    $standby->start;
    return $standby;
}

# --- a switch-over -----------------------------------------------------------------------

my $s = make_standby($b, 's');
$b->safe_psql('postgres', q{INSERT INTO t VALUES (1, 'b')});
$b->wait_for_catchup($s, 'replay');
is($s->safe_psql('postgres', 'SELECT count(*) FROM t'), 1, 'a standby can be read');
is($s->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'cozesync %' AND datname IS NOT NULL}), 0,
    'and has no workers');
like(sql_error($s, q{SELECT cozesync.drop_node('a')}), qr/ERROR/, 'it changes nothing');
$b->stop;
$s->promote;
$a->safe_psql('postgres', sprintf(q{SELECT cozesync.set_dsn('b', '%s')}, node_dsn($s)));
$s->safe_psql('postgres', q{INSERT INTO t VALUES (2, 'promoted')});
$a->safe_psql('postgres', q{INSERT INTO t VALUES (3, 'a')});
ok(wait_quiet($a, $s), 'the promoted standby is node b');
same_rows([ $a, $s ], ['t'], 'nothing is lost');

# --- one that lagged ----------------------------------------------------------------------------

my $late = make_standby($s, 'late');
$s->wait_for_catchup($late, 'replay');
$late->stop;
$s->safe_psql('postgres', q{INSERT INTO t VALUES (4, 'not on the standby'); UPDATE t SET v = 'nor this' WHERE id = 1});
ok(wait_quiet($a, $s), 'a has what the standby has not');
$s->stop;
$late->start;
$late->promote;
$a->safe_psql('postgres', sprintf(q{SELECT cozesync.set_dsn('b', '%s')}, node_dsn($late)));
$late->safe_psql('postgres', q{INSERT INTO t VALUES (5, 'on the standby only')});
ok(poll_until($late, q{SELECT state = 'needs_copy' FROM cozesync.nodes WHERE is_local}), 'it is noticed');
ok(poll_until($a, q{SELECT state IN ('needs_copy', 'unreachable') FROM cozesync.nodes WHERE node_name = 'b'}), 'others see it, too');
is($a->safe_psql('postgres', q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM t}), '1 2 3 4', 'nothing has left it');
like(sql_error($late, 'SELECT cozesync.confirm_identity()'), qr/55000.*new_incarnation.*salvage/s, 'it cannot go on as it is');

# One way out; the other is in 065_incarnation.pl.
$a->safe_psql('postgres', q{SELECT cozesync.drop_node('b')});
is($late->safe_psql('postgres', q{SELECT new_row ->> 'v' FROM cozesync.salvage()}), 'on the standby only', 'what was written there is saved');
$late->safe_psql('postgres', 'SELECT cozesync.leave_group(); TRUNCATE t');
$late->safe_psql('postgres', sprintf(q{CALL cozesync.join_group('b', '%s', '%s')}, node_dsn($late), node_dsn($a)));
ok(wait_quiet($a, $late), 'it has joined anew');
same_rows([ $a, $late ], ['t'], 'with the rows of the group');

done_testing();
