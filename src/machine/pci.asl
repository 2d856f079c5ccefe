// SPDX-License-Identifier: Apache-2.0
// The PCI bus, for machines that have one.  Its addresses are those of dev/pci.h;
// where the window above 4 GiB begins depends on RAM, and machine/acpi.c appends
// that as \M64S.  Interrupts are messages only, so there is no _PRT.
DefinitionBlock ("pci.aml", "SSDT", 2, "GODWIT", "PCI", 1)
{
    External (\M64S, IntObj)

    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A08")) // PCI Express root bridge
            Name (_CID, EisaId ("PNP0A03"))
            Name (_UID, 0)
            Name (_SEG, 0)
            Name (_BBN, 0)

            Method (_CRS, 0, Serialized)
            {
                Name (WINS, ResourceTemplate ()
                {
                    WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
                        0, 0, 0, 0, 1)
                    IO (Decode16, 0x0CF8, 0x0CF8, 1, 8)
                    DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
                        NonCacheable, ReadWrite,
                        0, 0xC0000000, 0xDFFFFFFF, 0, 0x20000000)
                    QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
                        Cacheable, ReadWrite,
                        0, 0, 0x0000000FFFFFFFFF, 0, 0x0000001000000000, , , HIGH)
                })
                CreateQWordField (WINS, HIGH._MIN, HMIN)
                CreateQWordField (WINS, HIGH._MAX, HMAX)
                CreateQWordField (WINS, HIGH._LEN, HLEN)
                HMIN = M64S
                HMAX = M64S + HLEN - 1
                Return (WINS)
            }
        }

        // A kernel believes in ECAM (table MCFG) only if it is reserved here.
        Device (ECAM)
        {
            Name (_HID, EisaId ("PNP0C02")) // motherboard resources
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xE0000000, 0x00100000)
            })
        }
    }
}
