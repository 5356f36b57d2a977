# Policies under load on three nodes: nothing that was acknowledged is missing from counters,
# sets and objects, and a row that everybody writes to keeps up.
#
# SEED and ROUNDS in the environment.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{SEED} || (time ^ $$);
my $rounds = $ENV{ROUNDS} || 3;
note "SEED=$seed ROUNDS=$rounds";
srand($seed);

my @nodes = new_group(
    nodes => [qw(a b c)],
    schema => q{
        CREATE TABLE counters (id int PRIMARY KEY, n bigint NOT NULL, tags text[], doc jsonb);
        INSERT INTO counters SELECT i, 0, '{}', '{}' FROM generate_series(1, 5) i;
        CREATE TABLE held (id int PRIMARY KEY, v text);
        INSERT INTO held SELECT i, 'o' FROM generate_series(1, 20) i},
    setup => q{
        SELECT cozesync.set_conflict_policy('counters', 'merge');
        SELECT cozesync.set_column_policy('counters', 'n', 'delta');
        SELECT cozesync.set_column_policy('counters', 'tags', 'set_merge');
        SELECT cozesync.set_column_policy('counters', 'doc', 'json_merge');
        SELECT cozesync.set_conflict_policy('held', 'hold')});
my ($a, $b, $c) = @nodes;
ok(wait_quiet(@nodes), 'a group of three');

my ($number, $sum) = (0, 0);
my (%tags, %keys);

# One transaction: a step of a counter, an element, a member of an object.
sub step
{
    my ($node) = @_;
    my $id = 1 + int rand 5;
    my $by = int(rand 20) - 5;
    my $name = $node->name . ++$number;
    $sum += $by;
    my $dice = rand;
    return "UPDATE counters SET n = n + $by WHERE id = $id;\n" if $dice < 0.5;
    if ($dice < 0.75)
    {
        $tags{$name} = 1;
        return "UPDATE counters SET n = n + $by, tags = tags || '$name'::text WHERE id = $id;\n";
    }
    $keys{$name} = 1;
    return "UPDATE counters SET n = n + $by, doc = jsonb_set(doc, '{$name}', '$by') WHERE id = $id;\n";
}

for my $round (1 .. $rounds)
{
    my @apart = grep { rand() < 0.5 } @nodes;
    $_->safe_psql('postgres', 'SELECT cozesync.pause()') for @apart;
    my @running = map { my $n = $_; background($n, join '', map { step($n) } 1 .. 60) } @nodes, @nodes;
    is(join('', map { ($_->finish)[2] } @running), '', "round $round: all statements are acknowledged");
    $_->safe_psql('postgres', 'SELECT cozesync.resume()') for @apart;
    ok(wait_quiet(@nodes), "round $round: in sync");
    same_rows(\@nodes, ['counters'], "round $round: the same rows");
    is($a->safe_psql('postgres', 'SELECT sum(n) FROM counters'), $sum, "round $round: counters are the sum of all increments");
    is($a->safe_psql('postgres', 'SELECT string_agg(t, \',\' ORDER BY t COLLATE "C") FROM counters, unnest(tags) t'), join(',', sort keys %tags),
        "round $round: every element is there");
    is($a->safe_psql('postgres', 'SELECT string_agg(k, \',\' ORDER BY k COLLATE "C") FROM counters, jsonb_object_keys(doc) k'), join(',', sort keys %keys),
        "round $round: every member is there");
}

# Elements that are removed stay away.
$a->safe_psql('postgres', q{UPDATE counters SET tags = '{}', doc = '{}'});
wait_quiet(@nodes);
is($c->safe_psql('postgres', q{SELECT count(*) FROM counters WHERE tags <> '{}' OR doc <> '{}'}), 0, 'what is removed is gone');

# Held on every node, told, and settled everywhere by one.
$_->safe_psql('postgres', 'SELECT cozesync.pause()') for @nodes;
$a->safe_psql('postgres', q{UPDATE held SET v = 'x' WHERE id = 1});
$b->safe_psql('postgres', q{UPDATE held SET v = 'y' WHERE id = 1});
$_->safe_psql('postgres', 'SELECT cozesync.resume()') for @nodes;
ok(wait_quiet(@nodes), 'a conflict is held');
is(join(' ', map { $_->safe_psql('postgres', q{SELECT (SELECT v FROM held WHERE id = 1) || count(*) FROM cozesync.conflicts WHERE outcome = 'held'}) } @nodes),
    'x1 x1 x1', 'on every node, with the earlier row');
$b->safe_psql('postgres', q{UPDATE held SET v = 'z' WHERE id = 2});
ok(wait_quiet(@nodes) && $a->safe_psql('postgres', q{SELECT v FROM held WHERE id = 2}) eq 'z', 'nothing else waits');
# c wrote neither: which of them is remote there is the one that came second
my $shown = $c->safe_psql('postgres', q{SELECT concat_ws(' ', base_row ->> 'v', local_row ->> 'v', remote_row ->> 'v') FROM cozesync.conflicts WHERE outcome = 'held'});
my ($remote) = $shown =~ /(.)$/;
like($shown, qr/^o (x y|y x)$/, 'both rows and what both had seen are shown');
$c->safe_psql('postgres', q{SELECT cozesync.resolve_conflict(id, 'remote') FROM cozesync.conflicts WHERE outcome = 'held'});
ok(wait_quiet(@nodes), 'settled on a node that wrote neither');
is(join(' ', map { $_->safe_psql('postgres', q{SELECT (SELECT v FROM held WHERE id = 1) || outcome FROM cozesync.conflicts WHERE relation = 'held'::regclass}) } @nodes),
    join(' ', ("${remote}resolved") x 3), 'holds everywhere');
$a->safe_psql('postgres', q{SELECT cozesync.resolve_conflict(id, 'row', '{"v": "w"}') FROM cozesync.conflicts WHERE relation = 'held'::regclass});
ok(wait_quiet(@nodes), 'and can be decided anew');
is($b->safe_psql('postgres', q{SELECT v FROM held WHERE id = 1}), 'w', 'with another row');
$b->safe_psql('postgres', q{UPDATE held SET v = 'later' WHERE id = 1});
like(sql_error($b, q{SELECT cozesync.resolve_conflict(id, 'local') FROM cozesync.conflicts WHERE relation = 'held'::regclass}),
    qr/the row has changed since the conflict/, 'a row that has changed since is not overwritten unseen');

# A row that both write to 500 times a second, each write a transaction of its own.
my ($rate, $for) = (500, 4);
my $writes = $rate * $for;
$a->safe_psql('postgres', q{SELECT cozesync.execute_everywhere($ddl$
    CREATE PROCEDURE write_on(n int, rate int) LANGUAGE plpgsql AS $$
    DECLARE
        begun timestamptz := clock_timestamp();
    BEGIN
        FOR i IN 1 .. n LOOP
            UPDATE public.counters SET n = counters.n + 1 WHERE id = 1;
            COMMIT;
            PERFORM pg_sleep(greatest(0, i::float8 / rate - extract(epoch FROM clock_timestamp() - begun)));
        END LOOP;
    END $$ $ddl$)});
ok(wait_quiet(@nodes), 'a row that two nodes write to all the time');
my $before = $a->safe_psql('postgres', 'SELECT n FROM counters WHERE id = 1');
my $begin = time;
my @writers = map { background($_, "CALL write_on($writes, $rate);\n") } $a, $b;
is(join('', map { ($_->finish)[2] } @writers), '', 'is written to');
my $written = time - $begin;
ok(poll_until($_, 'SELECT n = ' . ($before + 2 * $writes) . ' FROM counters WHERE id = 1'), 'loses no increment on ' . $_->name) for @nodes;
my $lag = time - $begin - $written;
note sprintf '%d writes on each of two nodes in %.1f s (%.0f a second), all of them on three nodes %.1f s later',
    $writes, $written, $writes / $written, $lag;
# Who falls behind by a third or more falls behind for good.
cmp_ok($lag, '<', 1 + $written / 3, 'and keeps up');

done_testing();
