# RuleTest - scenarios that need a rule, on two servers.
#
# Each scenario runs twice, with its rule in force and with the rule taken out: with
# it all is well, without it something is broken.  It runs in databases of its own,
# which are dropped afterwards, since what was broken stays broken.
#
# The name of the second assertion ends in "breaks without the rule NAME": by that
# test/lib/rules.pl finds out which rules have a scenario.

package RuleTest;

use strict;
use warnings;
use Exporter 'import';
use CozeTest;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(rule_servers scenario begin end sql until_true settle equal db third_node);

# What is in a group's databases; fill() writes rows of which eight take a segment of
# 64 kB, each in a transaction.
my $schema = q{
    CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE PROCEDURE fill(first int, n int) LANGUAGE plpgsql AS $$
        BEGIN
            FOR i IN 1 .. n LOOP
                INSERT INTO t VALUES (first + i, repeat('x', 7000)); COMMIT;
            END LOOP;
        END $$};
my ($a, $b);
my $db;
my $number = 0;

# The servers, named a and b.
sub rule_servers
{
    ($a, $b) = @_;
    return;
}

sub db { return $db; }

sub sql
{
    my ($node, $sql, $dbname) = @_;
    return $node->safe_psql($dbname // $db, $sql);
}

sub until_true
{
    my ($node, $sql, $dbname) = @_;
    return poll_until($node, $sql, 't', $dbname // $db);
}

# Everything is everywhere, and nobody owes a beat any more.
sub settle
{
    wait_quiet(\$db, $a, $b);
    until_true($_, q{SELECT max(hlc) < clock_timestamp() - interval '350 ms' FROM cozesync.entries()})
        for $a, $b;
    return;
}

sub equal
{
    return digest($a, 't', $db) eq digest($b, 't', $db);
}

# Another node, c, in a database of one of the servers, whose name is returned; it joins
# through a.
sub third_node
{
    my ($server) = @_;
    my $third = $db . 'c';
    $server->safe_psql('postgres', "CREATE DATABASE $third");
    $server->safe_psql($third, sprintf q{CREATE EXTENSION cozesync;
        CALL cozesync.join_group(node_name => 'c', dsn => '%s', via => '%s')},
        node_dsn($server, $third), node_dsn($a, $db));
    return $third;
}

# A group in databases of its own; nodes: of which servers, all by default.
sub begin
{
    my (%opt) = @_;
    $db = 's' . ++$number;
    for my $node ($a, $b)
    {
        $node->safe_psql('postgres', "CREATE DATABASE $db");
        $node->safe_psql($db, 'CREATE EXTENSION cozesync');
    }
    form_group($opt{nodes} ? @{ $opt{nodes} } : ($a, $b), { dbname => $db, schema => $schema });
    return;
}

sub end
{
    for my $node ($a, $b)
    {
        $node->safe_psql('postgres', "DROP DATABASE IF EXISTS $_ WITH (FORCE)") for "${db}c", $db;
    }
    return;
}

# The scenario is given whether the rule is off and returns true if all is well.
# Without a rule it only has to hold.  Options are begin()'s, and on_start: the rule matters while a server starts, which
# the scenario does.  SCENARIO in the environment: only those whose name matches.
sub scenario
{
    my ($name, $rule, $code, %opt) = @_;
    return if defined $ENV{SCENARIO} && $name !~ /$ENV{SCENARIO}/;
    for my $off (0 .. ($rule ? 1 : 0))
    {
        begin(%opt);
        debug_rule($_, $rule, 1, $db) for $off && !$opt{on_start} ? ($a, $b) : ();
        my $well;
        {
            local $ENV{COZE_RULES_OFF} = $off && $opt{on_start} ? $rule : '';
            $well = $code->($off);
        }
        is($well ? 'well' : 'broken', $off ? 'broken' : 'well',
            $off ? "$name: breaks without the rule $rule" : "$name: holds");
        debug_rule($_, $rule, 0, $db) for $off ? ($a, $b) : ();
        end();
    }
    return;
}

1;
