# Faults - what goes wrong in a round, when, and how it heals.
#
# The whole plan is drawn before the round begins, so that a seed gives the same plan
# however long things take.  Each fault does its harm and says when what heals it is due.

package Faults;

use strict;
use warnings;
use FaultTools;
use RandomWork qw(pick);
use Time::HiRes qw(time usleep);

# kind => [weight, code]; the code gets the group and a random number generator's
# draws, and returns [seconds, code that heals] or nothing.
my %kinds = (
    worker => [ 4, \&kill_worker ],
    backend => [ 2, \&kill_backend ],
    server => [ 2, \&crash_server ],
    restart => [ 1, \&restart_server ],
    freeze => [ 3, \&freeze_process ],
    road => [ 4, \&disturb_road ],
    partition => [ 2, \&partition ],
    clock => [ 2, \&move_clock ],
    disk => [ 1, \&fill_disk ],
    pause => [ 1, \&pause_links ],
    mode => [ 1, \&change_mode ],
    lock => [ 2, \&lock_table ],
);
my %members = (join => \&join_member, drop => \&drop_member);

# Draw a plan: [[at, kind, seed], ...] over so many seconds.
sub plan
{
    my ($seconds, $only) = @_;
    my @enabled = $only ? (grep { $kinds{$_} } split /,/, $only) : grep { rand() < 0.6 } sort keys %kinds;
    my $pace = pick(0.3, 0.7, 1.5);
    my @weighted = map { my $kind = $_; map { $kind } 1 .. $kinds{$kind}[0] } @enabled;
    my @plan;
    my $at = 1;
    while (@weighted && ($at += rand(2 * $pace)) < $seconds)
    {
        push @plan, [ $at, pick(@weighted), int rand 2**31 ];
    }
    # members come and go once a round
    for my $kind (qw(join drop))
    {
        next if $only ? $only !~ /\b$kind\b/ : rand() > 0.3;
        push @enabled, $kind;
        push @plan, [ 2 + rand($seconds - 4), $kind, int rand 2**31 ];
    }
    @plan = sort { $a->[0] <=> $b->[0] } @plan;
    return (\@enabled, @plan);
}

# Carry the plan out.  g: the group (nodes, proxy, ...).  Returns counts by kind.
sub run
{
    my ($g, $seconds, @plan) = @_;
    my $begin = time;
    my (%done, @heal);
    while (time - $begin < $seconds)
    {
        my $now = time - $begin;
        for my $due (grep { $_->[0] <= $now } @heal)
        {
            $due->[1]->();
            $due->[1] = undef;
        }
        @heal = grep { $_->[1] } @heal;
        $g->{keep_up}->();
        if (@plan && $plan[0][0] <= $now)
        {
            my (undef, $kind, $seed) = @{ shift @plan };
            srand $seed;
            my ($what, $after, $code) = ($members{$kind} // $kinds{$kind}[1])->($g);
            next if !$what;
            $g->{say}->(sprintf('%6.2f %s%s', time - $begin, $what, $code ? sprintf(' for %.1f s', $after) : ''));
            $done{$kind}++;
            push @heal, [ time - $begin + $after, $code ] if $code;
            next;
        }
        usleep(30_000);
    }
    $_->[1]->() for @heal;
    return %done;
}

# --- processes -----------------------------------------------------------------------------

sub one_of
{
    my ($node, $pattern) = @_;
    my @found = grep { $_->[1] =~ $pattern } children($node);
    return @found ? pick(@found) : undef;
}

my $workers = qr/cozesync/;
my $backends = qr/postgres: \S+ postgres /;

sub kill_one
{
    my ($g, $pattern) = @_;
    my $node = pick(@{ $g->{nodes} });
    my $victim = one_of($node, $pattern) or return;
    my $signal = rand() < 0.7 ? 'TERM' : 'KILL';
    kill $signal, $victim->[0];
    return $node->name . ": $signal to $victim->[0], $victim->[1]";
}

sub kill_worker { return kill_one($_[0], $workers) }
sub kill_backend { return kill_one($_[0], $backends) }

sub crash_server
{
    my ($g) = @_;
    my $node = pick(@{ $g->{nodes} });
    my $after = rand pick(0.2, 2, 6);
    kill_all_processes($node);
    $g->{down}{ $node->name } = 1;
    return ($node->name . ': killed whole', $after, sub { delete $g->{down}{ $node->name } });
}

sub restart_server
{
    my ($g) = @_;
    my $node = pick(@{ $g->{nodes} });
    my $mode = pick(qw(INT QUIT));
    my $pid = postmaster($node) or return;
    kill $mode, $pid;
    return $node->name . ': ' . ($mode eq 'INT' ? 'fast' : 'immediate') . ' shutdown';
}

sub freeze_process
{
    my ($g) = @_;
    my $node = pick(@{ $g->{nodes} });
    my $victim = one_of($node, rand() < 0.6 ? $workers : qr/postgres:/) or return;
    my $pid = $victim->[0];
    kill 'STOP', $pid;
    return ($node->name . ": STOP to $pid, $victim->[1]", 0.1 + rand pick(0.5, 3, 8), sub { kill 'CONT', $pid });
}

# --- network ---------------------------------------------------------------------------------

sub disturb_road
{
    my ($g) = @_;
    my @roads = @{ $g->{roads} };
    my $road = pick(@roads);
    my $state = pick(qw(cut freeze deaf mute slow));
    $g->{proxy}->set($road, $state);
    my $after = rand pick(0.3, 3, 10);
    # what was frozen is sometimes cut, as when a firewall has forgotten it
    my $cut = $state ne 'cut' && rand() < 0.5;
    return ("$road: $state", $after, sub
    {
        $g->{proxy}->set($road, 'cut') if $cut;
        $g->{proxy}->set($road, 'pass');
    });
}

# One node is away from the others, both ways or for connections in one direction only.
sub partition
{
    my ($g) = @_;
    my $name = pick(@{ $g->{nodes} })->name;
    my $way = pick('both', 'both', 'in', 'out');
    my $state = pick(qw(cut cut freeze));
    my @roads = grep { $way eq 'both' ? /\b$name\b/ : $way eq 'out' ? /^$name>/ : />$name$/ } @{ $g->{roads} };
    $g->{proxy}->set($_, $state) for @roads;
    return ("$name: apart ($way, $state)", 1 + rand pick(2, 6, 15), sub
    {
        for my $road (@roads)
        {
            $g->{proxy}->set($road, 'cut') if $state eq 'freeze' && rand() < 0.5;
            $g->{proxy}->set($road, 'pass');
        }
    });
}

# --- clock, disk -------------------------------------------------------------------------------

sub move_clock
{
    my ($g) = @_;
    my $name = pick(@{ $g->{nodes} })->name;
    my $ms = rand() < 0.2 ? 0 : int(rand(2 * $g->{max_skew}) - $g->{max_skew});
    $g->{set_skew}->($name, $ms);
    return "$name: clock at $ms ms";
}

sub fill_disk
{
    my ($g) = @_;
    my $name = pick(@{ $g->{nodes} })->name;
    $g->{set_full}->($name, 1);
    return ("$name: disk full", 0.5 + rand 4, sub { $g->{set_full}->($name, 0) });
}

# --- what people do ------------------------------------------------------------------------------

sub in_session
{
    my ($g, $node, $sql) = @_;
    my $session = $g->{session}->($node) or return;
    my $answer = $session->query($sql);
    return $answer->{lost} || $answer->{state} ? undef : $session;
}

sub pause_links
{
    my ($g) = @_;
    my $node = pick(@{ $g->{nodes} });
    in_session($g, $node, "SET statement_timeout = '3s'; SELECT cozesync.pause()") or return;
    my $resume = sub { !(grep { $_ == $node } @{ $g->{nodes} }) || in_session($g, $node, 'SELECT cozesync.resume()') };
    push @{ $g->{at_end} }, $resume;
    return ($node->name . ': paused', 0.5 + rand 5, $resume);
}

sub join_member
{
    my ($g) = @_;
    my $via = pick(@{ $g->{nodes} });
    return $g->{begin_join}->($via) ? 'a node joins through ' . $via->name : ();
}

# Not the first one, and none whose going leaves the others apart.
sub drop_member
{
    my ($g) = @_;
    my @nodes = @{ $g->{nodes} };
    my $node = $g->{topology} eq 'chain' ? $nodes[ $g->{size} - 1 ] : $nodes[ 1 + rand $#nodes ];
    my $by = rand() < 0.5 ? $nodes[0] : undef;
    my $name = $node->name;
    return if @nodes < 3;
    my $done = $g->{remove_member}->($node, $by);
    # who could not be told now is told when all has healed
    push @{ $g->{at_end} }, sub { return in_session($g, $nodes[0],
        "SET statement_timeout = '60s'; SELECT cozesync.drop_node('$name')") };
    @{ $g->{roads} } = grep { !/\b$name\b/ } @{ $g->{roads} };
    @{ $g->{links} } = grep { !/\b$name\b/ } @{ $g->{links} };
    return "$name: " . ($by ? 'dropped' : 'leaves') . ($done ? '' : ' (failed)');
}

sub change_mode
{
    my ($g) = @_;
    my ($source, $target) = split />/, pick(@{ $g->{links} });
    my $mode = pick(qw(push pull));
    in_session($g, pick(@{ $g->{nodes} }),
        "SET statement_timeout = '3s'; SELECT cozesync.set_link('$source', '$target', '$mode')") or return;
    return "$source>$target: $mode";
}

sub lock_table
{
    my ($g) = @_;
    my $node = pick(@{ $g->{nodes} });
    my $table = pick(qw(hot plain one_unique two_unique toasted cause));
    my $session = in_session($g, $node, "SET lock_timeout = '1s'; BEGIN; LOCK TABLE $table IN "
        . pick('SHARE', 'ACCESS EXCLUSIVE') . ' MODE') or return;
    return ($node->name . ": $table locked", 0.5 + rand 3, sub { $session->close_session });
}

1;
