# What a group that changes must heed, each with its rule and without: without it an older write
# undoes a newer one, or what was written on a new node gets nowhere.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a, $b, $c) = new_group(nodes => [qw(a b c)], schema => q{
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT g, 'start' FROM generate_series(1, 10) g;});
my @all = ($a, $b, $c);

# c is a member again, and all is as in the beginning.
sub begin_again
{
    my ($rule) = @_;
    debug_rule($_, $rule, 0) for grep { $_->safe_psql('postgres', 'SELECT true') } $a, $b;
    $c->start unless -e $c->data_dir . '/postmaster.pid';
    debug_rule($c, $rule, 0);
    $_->safe_psql('postgres', 'SELECT cozesync.resume()') for @all;
    $a->safe_psql('postgres', q{SELECT cozesync.drop_node('c')})
        if $a->safe_psql('postgres', q{SELECT count(*) FROM cozesync.nodes WHERE node_name = 'c'}) != 0;
    ok(poll_until($c, q{SELECT state = 'left' FROM cozesync.about()}), 'c knows that it was dropped');
    $c->safe_psql('postgres', 'SELECT cozesync.leave_group(); TRUNCATE t');
    $a->safe_psql('postgres', q{UPDATE t SET v = 'start'});
    ok(wait_quiet($a, $b), 'a and b in sync');
    join_node($c, $a);
    ok(wait_quiet(@all), 'c is back');
    return;
}

# Nothing passes between a node and its peers.
sub apart
{
    my ($node, @peers) = @_;
    $node->safe_psql('postgres', "SELECT cozesync.pause('" . $_->name . "')") for @peers;
    ok(poll_until($_, "SELECT bool_and(state <> 'streaming') FROM cozesync.links WHERE '" . $node->name . "' IN (source, target)"),
        $node->name . ' and ' . $_->name . ' are apart') for @peers;
    return;
}

# a has written on row 1, later than c and not seeing what c wrote there; b holds that, and a
# knows that it does.  So only c keeps a from forgetting it.
sub a_writes_later
{
    my ($what_c_does) = @_;
    apart($c, $a, $b);
    $c->safe_psql('postgres', $what_c_does);
    $a->safe_psql('postgres', q{UPDATE t SET v = 'a, later' WHERE id = 1});
    my $hlc = $a->safe_psql('postgres', q{SELECT max(hlc) FROM cozesync.entries() WHERE origin = 'a' AND kind = 'data'});
    ok(poll_until($b, q{SELECT v = 'a, later' FROM t WHERE id = 1}), 'b has what a wrote');
    $b->safe_psql('postgres', q{UPDATE t SET v = 'b' WHERE id = 2});
    ok(poll_until($a, q{SELECT v = 'b' FROM t WHERE id = 2}), 'a knows that b has it');
    $a->safe_psql('postgres', q{UPDATE t SET v = 'a' WHERE id = 3});
    ok(poll_until($b, q{SELECT v = 'a' FROM t WHERE id = 3}), 'and b that');
    return $hlc;
}

sub row_1
{
    return join ', ', map { $_->name . ': ' . $_->safe_psql('postgres', 'SELECT v FROM t WHERE id = 1') } $a, $b;
}

my $right = 'a: a, later, b: a, later';

# --- dropped by one ----------------------------------------------------------------------

# a drops c; b holds something of c that a lacks, which must not come to a below its cut.
sub dropped_by_one
{
    my ($with) = @_;
    my $hlc = a_writes_later(q{UPDATE t SET v = 'c, earlier' WHERE id = 1});
    apart($a, $b, $c);
    my $vector = $c->safe_psql('postgres', 'SELECT cozesync.vector()');
    $c->safe_psql('postgres', q{SELECT cozesync.resume('b')});
    is($b->safe_psql('postgres', "SELECT cozesync.wait_for_vector('$vector', '60 s')"), 't', 'b holds what c wrote');
    $c->stop('immediate');
    debug_rule($a, 'even', !$with);
    $a->safe_psql('postgres', q{SELECT cozesync.drop_node('c')});
    ok(poll_until($a, "SELECT cut >= '$hlc' FROM cozesync.stats"), 'a forgets its write') unless $with;
    $a->safe_psql('postgres', q{SELECT cozesync.resume()});
    ok(wait_quiet($a, $b), 'a and b in sync');
    return row_1();
}

is(dropped_by_one(1), $right, 'dropped by one: holds');
begin_again('even');
isnt(dropped_by_one(0), $right, 'dropped by one: breaks without the rule even');
begin_again('even');

# --- what is on its way when a node is dropped --------------------------------------------------

# What b has received of c and not applied must be forgotten when b says that it knows of the drop.
sub dropped_with_queue
{
    my ($with) = @_;
    my $hlc = a_writes_later(q{UPDATE t SET v = 'c, earlier' WHERE id IN (1, 9)});
    debug_rule($b, 'drop-purge', !$with);
    $a->safe_psql('postgres', q{SELECT cozesync.pause('c')});
    my $user = background($b, q{BEGIN; UPDATE t SET v = 'held' WHERE id = 9; SELECT pg_sleep(600)});
    my $sleeps = q{FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND state = 'active' AND pid <> pg_backend_pid()};
    ok(poll_until($b, "SELECT count(*) = 1 $sleeps"), 'a user holds a row on b');
    $c->safe_psql('postgres', q{SELECT cozesync.resume('b')});
    ok(poll_until($b, q{SELECT bool_or(held_back_by_pid IS NOT NULL OR stopped_at IS NOT NULL) FROM cozesync.links WHERE source = 'c'}),
        'what c wrote waits on b');
    $a->safe_psql('postgres', q{SELECT cozesync.drop_node('c')});
    ok(poll_until($b, q{SELECT count(*) = 2 FROM cozesync.nodes}), 'b knows that c was dropped');
    $b->safe_psql('postgres', q{UPDATE t SET v = 'b' WHERE id = 4});
    ok(poll_until($a, "SELECT cut >= '$hlc' FROM cozesync.stats"), 'the cut goes on without c');
    $b->safe_psql('postgres', "SELECT pg_terminate_backend(pid) $sleeps");
    $user->finish;
    $a->safe_psql('postgres', q{UPDATE t SET v = 'a' WHERE id = 5});
    ok(wait_quiet($a, $b), 'a and b in sync');
    return row_1();
}

is(dropped_with_queue(1), $right, 'dropped with a queue: holds');
begin_again('drop-purge');
isnt(dropped_with_queue(0), $right, 'dropped with a queue: breaks without the rule drop-purge');
begin_again('drop-purge');

# --- a drop while something is applied -----------------------------------------------------------

# b drops c itself just as it applies something of c: one must come before the other.
sub dropped_while_applying
{
    my ($with) = @_;
    my $hlc = a_writes_later(q{UPDATE t SET v = 'c, earlier' WHERE id = 1});
    $a->safe_psql('postgres', q{SELECT cozesync.pause('c')});
    debug_rule($b, 'drop-lock', !$with);
    debug_stop($b, 'apply-before-commit');
    $c->safe_psql('postgres', q{SELECT cozesync.resume('b')});
    ok(wait_stopped($b, 'apply-before-commit'), 'b is about to commit what c wrote');
    my $drop = background($b, q{SELECT cozesync.drop_node('c')});
    if ($with)
    {
        ok(poll_until($b, q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'cozesync.dropped_member'::regclass}),
            'the drop waits for that');
    }
    else
    {
        is(($drop->finish)[0], 0, 'c is dropped');
        ok(poll_until($a, q{SELECT count(*) = 2 FROM cozesync.nodes}), 'a knows');
        $a->safe_psql('postgres', q{UPDATE t SET v = 'a' WHERE id = 4});
        ok(poll_until($a, "SELECT cut >= '$hlc' FROM cozesync.stats"), 'a forgets its write');
    }
    debug_go($b, 'apply-before-commit');
    is(($drop->finish)[0], 0, 'c is dropped') if $with;
    ok(wait_quiet($a, $b), 'a and b in sync');
    return row_1();
}

is(dropped_while_applying(1), $right, 'dropped while applying: holds');
begin_again('drop-lock');
# what b stands with may be a beat of a, and c's write comes too late then
my $got = $right;
for (1 .. 10)
{
    $got = dropped_while_applying(0);
    begin_again('drop-lock');
    last if $got ne $right;
}
isnt($got, $right, 'dropped while applying: breaks without the rule drop-lock');

# --- a joiner that not everybody counts -------------------------------------------------------------

# c joins through a, which is dropped before b has heard of c: c must not have been written to.
sub joins_unknown
{
    my ($with) = @_;
    $c->safe_psql('postgres', 'SELECT cozesync.leave_group(); TRUNCATE t');
    ok(wait_quiet($a, $b), 'a and b in sync');
    apart($a, $b);
    debug_rule($c, 'ready', !$with);
    my $join = background($c, sprintf(q{CALL cozesync.join_group('c', '%s', '%s')}, node_dsn($c), node_dsn($a)));
    if ($with)
    {
        ok(poll_until($c, q{SELECT phase = 'catching up' FROM cozesync.join_run}), 'c waits for b');
    }
    else
    {
        is(($join->finish)[0], 0, 'c is ready though b does not know it');
    }
    my (undef, undef, $error) = $c->psql('postgres', q{INSERT INTO t VALUES (100, 'acknowledged')});
    $a->stop;
    $b->safe_psql('postgres', q{SELECT cozesync.drop_node('a')});
    return ($error, $join);
}

my ($error, $join) = joins_unknown(1);
like($error, qr/ERROR:.*joins its group/s, 'joiner unknown to a forgetter: holds');
$a->start;
$c->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL cozesync%'});
$join->finish;
$_->safe_psql('postgres', 'SELECT cozesync.leave_group(); TRUNCATE t') for $a, $c;
join_node($_, $b) for $a, $c;
ok(wait_quiet(@all), 'all is as in the beginning');
($error) = joins_unknown(0);
is($error, '', 'joiner unknown to a forgetter: breaks without the rule ready');
ok(poll_until($c, q{SELECT bool_or(last_error LIKE '%not known%') FROM cozesync.links WHERE 'b' IN (source, target)}),
    'and gets nowhere');
is($b->safe_psql('postgres', q{SELECT count(*) FROM t WHERE id = 100}), 0, 'not to b');

done_testing();
