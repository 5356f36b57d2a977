# Proxy - the network between nodes: a process that passes bytes on, or does not.
#
# There is a road for each pair (who connects, to whom): a Unix socket of its own.  Each
# road is in a state that can change at any time:
#   pass      bytes flow
#   cut       what is open is closed, what is new is refused
#   freeze    bytes stand still both ways; connections are taken and hang
#   deaf      bytes stand still from the server to who connected
#   mute      bytes stand still from who connected to the server
#   slow      some 200 kB a second

package Proxy;

use strict;
use warnings;
use Errno qw(EAGAIN EINTR EWOULDBLOCK);
use IO::Handle;
use IO::Select;
use IO::Socket::UNIX;
use POSIX ();
use Socket qw(SOCK_STREAM);
use Time::HiRes qw(time);

my $slow_bytes = 10_000;        # a tick
my $tick = 0.05;
my $buffer_max = 262_144;

# roads: { name => [path of the socket to listen on, path of the socket to connect to] }
sub start
{
    my ($class, %roads) = @_;
    my %listen;
    for my $name (keys %roads)
    {
        $listen{$name} = IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => $roads{$name}[0],
            Listen => 64) or die "cannot listen on $roads{$name}[0]: $!";
    }
    pipe my $read, my $write or die "pipe: $!";
    my $pid = fork // die "fork: $!";
    if (!$pid)
    {
        close $write;
        eval { _run($read, \%listen, \%roads); 1 } or warn "proxy: $@";
        POSIX::_exit(0);
    }
    close $read;
    $write->autoflush(1);
    return bless { pid => $pid, write => $write }, $class;
}

sub set
{
    my ($self, $road, $state) = @_;
    print { $self->{write} } "$road $state\n";
    return;
}

sub stop
{
    my ($self) = @_;
    close $self->{write};
    waitpid $self->{pid}, 0;
    return;
}

# Ends when the pipe is closed.
sub _run
{
    my ($control, $listen, $roads) = @_;
    local $SIG{PIPE} = 'IGNORE';
    my %state = map { $_ => 'pass' } keys %$listen;
    my %name_of = map { fileno($listen->{$_}) => $_ } keys %$listen;
    my %end;                    # fileno => { sock, peer, road, from_client, out }
    my $commands = '';
    my $last_tick = time;

    my $drop = sub {
        my ($e) = @_;
        for my $x ($e, $e->{peer})
        {
            next if !$x->{sock};
            delete $end{ fileno $x->{sock} };
            close $x->{sock};
            $x->{sock} = undef;
        }
    };
    # may bytes that this end sent go on?
    my $flows = sub {
        my ($e) = @_;
        my $s = $state{ $e->{road} };
        return $s eq 'pass' || $s eq 'slow' || ($s eq 'deaf' && $e->{from_client})
            || ($s eq 'mute' && !$e->{from_client});
    };

    while (1)
    {
        if (time - $last_tick > $tick)
        {
            $last_tick = time;
            $_->{sent} = 0 for values %end;
        }
        my ($rbits, $wbits) = ('', '');
        vec($rbits, fileno($control), 1) = 1;
        vec($rbits, $_, 1) = 1 for keys %name_of;
        for my $fd (keys %end)
        {
            my $e = $end{$fd};
            my $throttled = $state{ $e->{road} } eq 'slow' && $e->{sent} >= $slow_bytes;
            vec($rbits, $fd, 1) = 1 if $flows->($e) && !$throttled && length($e->{peer}{out}) < $buffer_max;
            vec($wbits, $fd, 1) = 1 if length $e->{out} && $flows->($e->{peer});
        }
        my $n = select $rbits, $wbits, undef, $tick;
        next if $n <= 0;

        if (vec $rbits, fileno($control), 1)
        {
            my $got = sysread $control, $commands, 4096, length $commands;
            return if !$got;
            while ($commands =~ s/^(\S+) (\S+)\n//)
            {
                $state{$1} = $2;
                next if $2 ne 'cut';
                my $road = $1;
                my @open = grep { $_->{from_client} && $_->{road} eq $road } values %end;
                $drop->($_) for @open;
            }
            next;
        }
        for my $fd (grep { vec $rbits, $_, 1 } keys %name_of)
        {
            my $road = $name_of{$fd};
            my $client = $listen->{$road}->accept or next;
            if ($state{$road} eq 'cut')
            {
                close $client;
                next;
            }
            my $server = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $roads->{$road}[1]);
            if (!$server)
            {
                close $client;
                next;
            }
            $_->blocking(0) for $client, $server;
            my $c = { sock => $client, road => $road, from_client => 1, out => '', sent => 0 };
            my $s = { sock => $server, road => $road, from_client => 0, out => '', sent => 0, peer => $c };
            $c->{peer} = $s;
            $end{ fileno $client } = $c;
            $end{ fileno $server } = $s;
        }
        for my $fd (keys %end)
        {
            my $e = $end{$fd} or next;
            if (vec $rbits, $fd, 1)
            {
                my $got = sysread $e->{sock}, $e->{peer}{out}, 65536, length $e->{peer}{out};
                if (!$got && (defined $got || !($!{EAGAIN} || $!{EINTR})))
                {
                    # what has come before the end still goes out, if it can at once
                    syswrite $e->{peer}{sock}, $e->{peer}{out} if length $e->{peer}{out};
                    $drop->($e);
                    next;
                }
                $e->{sent} += $got // 0;
                vec($wbits, fileno($e->{peer}{sock}), 1) = 1;
            }
            if (vec($wbits, $fd, 1) && length $e->{out})
            {
                my $put = syswrite $e->{sock}, $e->{out};
                if (!defined $put && !$!{EAGAIN} && !$!{EINTR})
                {
                    $drop->($e);
                    next;
                }
                substr($e->{out}, 0, $put // 0) = '';
            }
        }
    }
}

1;
