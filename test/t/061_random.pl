# Same set, same rows: nodes that were written to at random, apart from each
# other and together, end the same, round after round.
#
# Each round all nodes run random transactions (inserts, updates, deletes, key
# changes, swaps, savepoints, moves between partitions, now and then a TRUNCATE) on few
# keys and few unique values, so that nearly everything conflicts; in some rounds
# the links are paused meanwhile, in some, among more than two nodes, the appliers are
# ended.  Then all tables are compared and, of tables with a second unique key or a policy, the
# conflict logs, which are functions of the set, too; of the others, between two nodes, the losers.
#
# SEED and ROUNDS in the environment replay a run or make it longer; NODES is 2 to 4.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use RandomWork;
use Test::More;

my $seed = $ENV{SEED} || (time ^ $$);
my $rounds = $ENV{ROUNDS} || 12;
my $nodes = $ENV{NODES} || 2;
note "SEED=$seed ROUNDS=$rounds NODES=$nodes";
srand($seed);

# A table under each policy, two of them with a second unique key.
my @policies = qw(first_update_wins highest_version node_order merge resolver hold);
my @policy_tables = map { "p_$_" } @policies;
my @nodes = new_group(
    nodes => [ (qw(a b c d))[ 0 .. $nodes - 1 ] ],
    schema => join('', $random_schema, map { qq{;
        CREATE TABLE $_ (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, s text[], j jsonb, h text, v text, u text)} } @policy_tables) . q{;
        CREATE UNIQUE INDEX ON p_merge (u);
        CREATE UNIQUE INDEX ON p_node_order (u);
        CREATE FUNCTION settle(e p_resolver, l p_resolver, b p_resolver, t text) RETURNS p_resolver IMMUTABLE LANGUAGE sql AS $$
            SELECT CASE WHEN (l.n + e.n) % 3 = 0 THEN NULL WHEN (l.n + e.n) % 3 = 1 THEN e ELSE l END $$},
    setup => join('', map { "SELECT cozesync.set_conflict_policy('p_$_', '$_');" } qw(first_update_wins merge hold)) . q{
        SELECT cozesync.set_conflict_policy('p_highest_version', 'highest_version', version_column => 'n');
        SELECT cozesync.set_conflict_policy('p_node_order', 'node_order', node_order => ARRAY['a']);
        SELECT cozesync.set_conflict_policy('p_resolver', 'resolver', resolver => 'settle(p_resolver, p_resolver, p_resolver, text)');
        SELECT cozesync.set_column_policy('p_merge', 'n', 'delta');
        SELECT cozesync.set_column_policy('p_merge', 's', 'set_merge');
        SELECT cozesync.set_column_policy('p_merge', 'j', 'json_merge');
        SELECT cozesync.set_column_policy('p_merge', 'h', 'hold')});
my $a = $nodes[0];

my $counter = 0;

sub policy_statement
{
    my ($name) = @_;
    my ($table, $id, $n, $e) = (pick(@policy_tables), 1 + int rand 8, int rand 5, pick(qw('p' 'q' 'r' NULL)));
    return pick(
        "INSERT INTO $table VALUES ($id, $n, ARRAY[$e], '{\"a\": $n}', '$name', '$name', $e)",
        (map { "UPDATE $table SET n = n + $n, v = '$name' WHERE id = $id" } 1 .. 3),
        "UPDATE $table SET s = array_append(s, $e) WHERE id = $id",
        "UPDATE $table SET s = array_remove(s, $e), j = j || '{\"b\": $n}' WHERE id = $id",
        "UPDATE $table SET j = jsonb_set(j, '{o}', '{\"x\": $n}') WHERE id = $id",
        "UPDATE $table SET h = '$name' WHERE id = $id",
        "UPDATE $table SET u = $e WHERE id = $id",
        "DELETE FROM $table WHERE id = $id");
}

sub statement
{
    my ($node) = @_;
    my $name = $node->name . ++$counter;
    return rand() < 0.5 ? policy_statement($name) : random_statement($name);
}

sub transaction
{
    my ($node) = @_;
    my $dice = rand;
    return "BEGIN; TRUNCATE " . pick(@random_tables, @policy_tables) . ";\n" . statement($node) . ";\nCOMMIT;\n" if $dice < 0.01;
    return join '', map { "$_;\n" } 'BEGIN', random_swap(), 'COMMIT' if $dice < 0.04;
    my @list = map { statement($node) . ";\n" } 1 .. pick(1, 1, 1, 2, 3, 4);
    return $list[0] if @list == 1;
    splice @list, 1, 0, "SAVEPOINT x;\n", statement($node) . ";\n", "ROLLBACK TO x;\n" if rand() < 0.3;
    return join '', "BEGIN;\n", @list, "COMMIT;\n";
}

# psql goes on after an error; inside a transaction each statement has a savepoint.
sub work
{
    my ($node, $n) = @_;
    return background($node, join('', "\\set ON_ERROR_STOP off\n\\set ON_ERROR_ROLLBACK on\n",
        map { transaction($node) } 1 .. $n));
}

# The losers of tables whose rows are folded, and where each was decided.
sub folded_conflicts
{
    my ($node) = @_;
    return $node->safe_psql('postgres', q{
        SELECT c.table_name, c.key, c.conflict_type, c.loser_hlc, c.loser_origin, c.decided_hlc, c.decided_origin
          FROM cozesync.conflict c WHERE (c.table_name LIKE '%unique' OR c.table_name LIKE 'p\_%') AND c.conflict_type NOT LIKE '%missing'
         ORDER BY 1, c.key::text COLLATE "C", 3, 4, 5, 6, 7});
}

# The losers of the other tables, each once.
sub plain_losers
{
    my ($node) = @_;
    return $node->safe_psql('postgres', q{
        SELECT c.table_name, c.key, c.loser_hlc, c.loser_origin
          FROM cozesync.conflict c WHERE c.table_name IN ('plain', 'parted') AND c.conflict_type NOT LIKE '%missing'
         ORDER BY 1, c.key::text COLLATE "C", 3, 4});
}

# One assertion: a query finds the same on all nodes.
sub same_everywhere
{
    my ($query, $name) = @_;
    my ($first, @others) = map { $query->($_) } @nodes;
    return !grep { !is($_, $first, $name) } @others;
}

# Some of the appliers, one after the other; what they were doing is undone and done again.
sub end_appliers
{
    for (1 .. 1 + int rand 5)
    {
        pick(@_)->safe_psql('postgres', q{SELECT pg_terminate_backend(pid), pg_sleep(random() * 0.2)
            FROM pg_stat_activity WHERE backend_type LIKE 'cozesync applier%'});
    }
    return;
}

for my $round (1 .. $rounds)
{
    my @apart = grep { rand() < 0.6 } @nodes;
    $_->safe_psql('postgres', 'SELECT cozesync.pause()') for @apart;
    my @running = map { work($_, 30 + int rand 60) } @nodes;
    end_appliers(@nodes) if @nodes > 2 && rand() < 0.5;
    $_->finish for @running;
    $_->safe_psql('postgres', 'SELECT cozesync.resume()') for @apart;
    end_appliers(@nodes) if @nodes > 2 && rand() < 0.5;
    ok(wait_quiet(@nodes), "round $round: in sync" . (@apart ? ' after a time apart' : '')) or last;
    same_rows(\@nodes, [ @random_tables, @policy_tables ], "round $round: the same rows") or last;
    same_everywhere(\&folded_conflicts, "round $round: the same conflicts over rows with unique values") or last;
    # among three a loser may stay on record although a later arrival cleared it
    if (@nodes == 2)
    {
        same_everywhere(\&plain_losers, "round $round: the same losers among other rows") or last;
    }
    is(join(',', map { $_->safe_psql('postgres', q{SELECT count(*) FROM cozesync.conflict
            WHERE conflict_type IN ('update_missing', 'delete_missing') OR reason LIKE 'nothing in the change log%'}) } @nodes),
        join(',', (0) x @nodes), "round $round: no sign of divergence") or last;
}
cmp_ok($a->safe_psql('postgres', 'SELECT count(*) FROM cozesync.conflicts'), '>', 0, 'there were conflicts');
ok(log_is_found($_), 'each entry of node ' . $_->name . ' is found in its log') for @nodes;

done_testing();
